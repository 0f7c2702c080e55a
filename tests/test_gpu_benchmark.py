"""The benchmark for machines with a GPU: its processes, its page, and on the CPU its steps."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import report
from benchmarks.gpu.correctness import heads
from benchmarks.gpu.correctness.losses import LossesOnCpu
from benchmarks.gpu.machine import facts
from benchmarks.gpu.options import GpuOptions
from benchmarks.gpu.page import page
from benchmarks.gpu.place import Place
from benchmarks.gpu.run import STEPS_FILE, Ran, run_step, run_steps
from benchmarks.gpu.steps import STEPS, Step, chosen
from data.base.errors import UserError
from tests.gpu_steps import CHILD
from tests.processes import is_alive
from train_head.heads import Execution

CPU = torch.device("cpu")


def step(name: str, cuda_devices: int = 0) -> Step:
    return Step(name, f"tests.gpu_steps:{name}", f"A step to {name}", 1, cuda_devices)


@pytest.fixture
def options(tmp_path: Path) -> GpuOptions:
    return GpuOptions(out=tmp_path / "out", device="cpu", small=True)


def test_a_step_that_crashes_hides_no_other(options: GpuOptions) -> None:
    ran = run_steps(options, [step("abort"), step("hang", cuda_devices=2), step("refute")])
    assert [(one.step, one.status, one.why) for one in ran] == [
        ("abort", "failed", "killed by SIGABRT"),
        ("hang", "not run", "it needs 2 CUDA devices, and there are 0"),
        ("refute", "done", ""),
    ]
    assert ran[2].holds == {"one is one": True, "one is two": False}
    assert [one.all_holds for one in ran] == [False, True, False]
    lines = (options.out / STEPS_FILE).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == ["abort", "hang", "refute"]
    assert "Fatal Python error: Aborted" in (options.out / "logs" / "abort.txt").read_text()


def test_a_step_over_its_limit_is_killed(options: GpuOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_STEPS_FOLDER", str(tmp_path))
    (options.out / "logs").mkdir(parents=True)
    ran = run_step(step("hang"), options, limit_s=0.5)
    assert (ran.status, ran.why, ran.all_holds) == ("not finished", "over its limit of 0 s", False)


@pytest.mark.long
def test_its_children_are_killed_with_it(options: GpuOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_STEPS_FOLDER", str(tmp_path))
    (options.out / "logs").mkdir(parents=True)
    assert run_step(step("hang"), options, limit_s=20).why == "over its limit of 20 s"
    assert not is_alive(int((tmp_path / CHILD).read_text()))


@pytest.mark.long
def test_steps_are_reported_however_they_end(options: GpuOptions) -> None:
    ran = run_steps(options, [step("fail"), step("leave"), step("hold"), Step("gone", "tests.gone:step", "A module that is not there", 1)])
    assert [one.why for one in ran] == ["KeyError: 'a bug'", "exit status 0 without a result", "", ran[3].why]
    assert ran[3].why.startswith("ModuleNotFoundError: No module named 'tests.gone'")
    assert ran[2].figures == {"folder is empty": True, "infinite": "inf"}
    assert "Traceback" in (options.out / "logs" / "fail.txt").read_text()


def test_the_page_begins_with_what_does_not_hold() -> None:
    figures = {"x": 1.23456, "first": {"n": 1}, "second": {"n": 2}, "sizes": {"large": {"n": 3}}}
    ran = [
        Ran("machine", "The card", "done", figures={"card": "NVIDIA H100", "driver": "570.1"}),
        Ran("broken", "Breaks", "failed", "killed by SIGABRT"),
        Ran("checked", "Checks", "done", holds={"a": True, "b": False}, figures=figures, remarks=["So."]),
        Ran("slow", "Takes long", "not finished", "over its limit of 1 s"),
        Ran("decoding", "Decodes", "done", unconfirmed=["HEVC: the card does not decode it"]),
        Ran("later", "Comes later", "not run", "it needs two CUDA devices", needs_met=False),
    ]
    lines = page(ran, "python -m benchmarks.gpu", "abc", "today", small=False).splitlines()
    assert lines[0] == "# benchmarks.gpu: NVIDIA H100"
    wrong = lines.index("## What does not hold")
    assert lines[wrong + 2 : wrong + 4] == ["- broken failed: killed by SIGABRT", "- checked: b"]
    assert lines[wrong + 4 : wrong + 13] == [
        "",
        "## Not confirmed",
        "",
        "Not everything was run.",
        "",
        "- slow: not finished: over its limit of 1 s",
        "- later: not run: it needs two CUDA devices",
        "- decoding: HEVC: the card does not decode it",
        "",
    ]
    assert "| driver | 570.1 |" in lines[:wrong]
    assert "| later | Comes later | not run: it needs two CUDA devices |  | 0 |" in lines
    section = lines.index("## checked")
    assert wrong < lines.index("## Steps") < section
    assert lines[section + 4 :].index("- **does not hold**: b") < lines[section + 4 :].index("- holds: a")
    assert {"So.", "| x | 1.235 |", "|  | n |", "| first | 1 |", "| second | 2 |", "### sizes", "| large | 3 |"} <= set(lines[section:])
    assert "Nothing was refuted." in page(ran[:1], "", "", "", small=True)


def test_a_page_on_which_nothing_ran_says_so() -> None:
    ran = [Ran("machine", "The card", "done"), Ran("heads", "Heads", "not run", "the 1 minutes of --minutes are over")]
    assert "## Not confirmed\n\nNothing was run.\n\n- heads: not run" in page(ran, "", "", "", small=True)
    assert [one.all_holds for one in ran] == [True, False]


def test_control_c_leaves_the_page_of_what_is_done(options: GpuOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(one: Step, *_: object) -> Ran:
        if one.name == "heads":
            # An earlier page must not pass for this one's.
            assert not (options.out / "gpu.md").exists()
            raise KeyboardInterrupt
        return Ran(one.name, one.about, "done")

    options.out.mkdir()
    (options.out / "gpu.md").write_text("an old page")
    monkeypatch.setattr("benchmarks.gpu.run.run_step", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"gpu.md has the steps that were done; the same command starts with the first step again"):
        report.main(replace(options, steps="heads,training"))
    written = (options.out / "gpu.md").read_text()
    assert "- heads: not run: interrupted\n- training: not run: interrupted" in written
    assert "| machine | " in written


def test_the_exit_status_says_whether_all_holds(tmp_path: Path) -> None:
    assert [report.status(report.Findings(tmp_path, holds)) for holds in (True, False)] == [0, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": "heads,best"}, "--steps best is unknown: use all, or some of machine,heads,"),
        ({"steps": ""}, "--steps '' is unknown: use all, or some of machine,heads,"),
        ({"minutes": 0.0}, "--minutes 0 must be a number above 0"),
        ({"minutes": float("nan")}, "--minutes nan must be a number above 0"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        report.main(GpuOptions(out=tmp_path / "out", device="cpu", **change))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_gpu_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"this torch sees no CUDA device: run on a machine that has one, or .* --device cpu --small"):
        report.main(GpuOptions(out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("one", STEPS, ids=lambda one: one.name)
def test_the_function_of_every_step_is_there(one: Step) -> None:
    module, _, name = one.function.partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_steps_are_chosen_by_name_and_keep_their_order() -> None:
    assert [one.name for one in chosen("training,heads")] == ["machine", "heads", "training"]
    assert [one.name for one in chosen(" training, heads")] == ["machine", "heads", "training"]
    assert chosen("all") == list(STEPS)


def test_the_machine_is_described(tmp_path: Path) -> None:
    assert facts(Place(CPU, True, tmp_path)).figures["torch"] == torch.__version__


def test_float32_is_within_its_bound_and_products_in_bf16_are_not() -> None:
    for name, temporal in (("mean", "none"), ("xpool", "none"), ("dp", "seq-lstm")):
        found, _ = heads.compare(name, temporal, heads.sizes(small=True), CPU)
        assert 0 < found["float32"]["scores by bound"] < 1
        assert 0 < found["float32"]["gradient by bound"] < 1
        # bf16 has 8 bits of mantissa where float32 has 24.
        assert found["bf16"]["scores by bound"] > 1


def test_an_error_as_small_as_tf32_makes_is_seen() -> None:
    """The bound of float32 is no wider than what TF32, with 11 bits of mantissa, does to features and weights."""
    size = heads.sizes(small=True)
    features = size.features(seed=2)
    head = size.head("wti", "seq-transf", Execution())
    reference = heads.Reference.of(head, features, size.longest_sum * 2.0**-24)
    errors = reference.errors(heads.result(*heads.changed(head, features, 2.0**-11, seed=7)))
    assert errors["scores by bound"] > 1


def test_the_bound_of_losses_widens_with_every_step() -> None:
    losses = LossesOnCpu(torch.tensor([4.0, 2.0]).double().numpy(), torch.tensor([0.1, 0.2]).double().numpy())
    assert losses.widest == pytest.approx(0.1)
    assert losses.holds(torch.tensor([4.05, 1.9]).double().numpy())
    assert not losses.holds(torch.tensor([4.15, 2.0]).double().numpy())


@pytest.mark.long
@pytest.mark.parametrize("name", [one.name for one in STEPS if not one.cuda_devices])
def test_every_step_runs_on_the_cpu_and_holds(options: GpuOptions, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As a user of the command would run it."""
    findings = report.main(GpuOptions(minutes=5, out=options.out, device="cpu", small=True, steps=name))
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["steps"][name]["status"] == "done", (options.out / "logs" / f"{name}.txt").read_text()
    assert said["steps"][name]["does not hold"] == []
    assert findings.all_holds
    assert f"| {name} | " in findings.page.read_text()
