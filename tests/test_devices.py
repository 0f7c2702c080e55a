"""The choice of a device, and what is said where there is none."""

from pathlib import Path
from typing import get_args

import pytest
import torch

import evaluate
import extract
import search
import train_head
from data.base.errors import UserError
from data.cli.command_line import parse
from data.cli.meaning import DeviceName
from data.compute.device import find_device, unused_card
from data.compute.processes import ProcessGroup
from evaluate import EvaluateOptions
from extract import ExtractOptions
from search import SearchOptions
from search.serve import ServeOptions, serving
from tests.conftest import DEMO_CLIP
from train_head import TrainOptions
from train_head.sweep import SweepOptions
from train_head.sweep import main as sweep

NO_MPS = "^--device mps: this torch sees no GPU of Apple (.*); use --device cpu or auto$"
without_mps = pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has a GPU of Apple")


@pytest.mark.parametrize("options", [ExtractOptions, TrainOptions, SweepOptions, EvaluateOptions, SearchOptions, ServeOptions])
def test_every_command_with_a_device_takes_mps_and_says_that_it_is_untested(
    options: type, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    paths = {"cache": tmp_path, "out": tmp_path, "run": "zero-shot:glccl", "videos": tmp_path}
    given = [f"--{name}={value}" for name, value in paths.items() if name in options.__dataclass_fields__]  # type: ignore[attr-defined]
    for name in get_args(DeviceName):
        assert parse(options, "a command", args=[*given, f"--device={name}"]).device == name
    with pytest.raises(SystemExit):
        parse(options, "a command", args=["--help"])
    # In columns, so that the words are spread over lines.
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--device {auto,cpu,cuda,mps}" in said
    assert "mps is for GPUs of Apple, and untested." in said
    with pytest.raises(SystemExit):
        parse(options, "a command", args=[*given, "--device=tpu"])


def test_frames_are_not_decoded_on_mps(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        parse(ExtractOptions, "extract", args=[f"--videos={tmp_path}", f"--cache={tmp_path}", "--decode-device=mps"])


@without_mps
def test_without_mps_every_command_says_so_before_any_work(cache_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match=NO_MPS):
        extract.main(ExtractOptions(videos=tmp_path, cache=out, model=DEMO_CLIP, device="mps", quiet=True))
    with pytest.raises(UserError, match=NO_MPS):
        train_head.main(TrainOptions(cache_path, out, device="mps", quiet=True))
    with pytest.raises(UserError, match=NO_MPS):
        sweep(SweepOptions(cache_path, out, device="mps", quiet=True))
    with pytest.raises(UserError, match=NO_MPS):
        evaluate.main(EvaluateOptions(cache_path, "zero-shot:glccl", out, device="mps", quiet=True))
    with pytest.raises(UserError, match=NO_MPS):
        search.main(SearchOptions(cache_path, "zero-shot:glccl", device="mps", quiet=True, query=("a ring",)))
    with pytest.raises(UserError, match=NO_MPS), serving(ServeOptions(cache_path, "zero-shot:glccl", port=0, device="mps", quiet=True)):
        pass
    assert not out.exists()


def test_auto_is_cuda_or_the_cpu_and_never_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert find_device("auto").type == expected
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("auto").type == expected
    assert find_device("mps").type == "mps"


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is built for CUDA")
def test_a_card_that_torch_is_not_built_for_is_told(tmp_path: Path) -> None:
    assert unused_card(torch.device("cpu"), tmp_path / "nvidia0") is None
    (tmp_path / "nvidia0").touch()
    said = unused_card(torch.device("cpu"), tmp_path / "nvidia0")
    assert said == f"computing on the CPU: this machine has a card of NVIDIA, but torch {torch.__version__} is built for the CPU alone"
    with pytest.raises(UserError, match=r"no CUDA device \(it is built for the CPU alone\); use --device cpu or auto$"):
        find_device("cuda")


def test_training_on_mps_is_for_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with ProcessGroup.joined(torch.device("mps"), 60.0, in_step=True) as alone:
        assert alone.world_size == 1
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(UserError, match=r"--device mps trains in one process, .*: start one, or use --device cpu"),
        ProcessGroup.joined(torch.device("mps"), 60.0, in_step=True),
    ):
        pass


def test_bf16_names_the_device_that_lacks_it(cache_path: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--precision bf16 needs CUDA, and this is --device cpu: leave it out"):
        train_head.main(TrainOptions(cache_path, tmp_path / "out", precision="bf16", device="cpu"))
