"""A head of one's own, as package.module:Class: that of docs/guide/own-head.md through every stage, and classes that are not heads."""

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import evaluate
import search
import train_head
from data.base.errors import UserError
from data.cache import FeatureCache
from data.metrics import retrieval_metrics
from evaluate import EvaluateOptions, compare
from evaluate.compare import CompareOptions
from search import SearchOptions
from tests.conftest import ROOT
from tests.training_runs import stop_at
from train_head import TrainOptions, sweep
from train_head.heads import Execution, HeadConfig, make_head
from train_head.heads.own import own_class
from train_head.run import load_head
from train_head.sweep import SweepOptions

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
GUIDE = (ROOT / "docs/guide/own-head.md").read_text()
EXAMPLE = re.search(r"^```py file=my_heads.py\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
ADDED = re.findall(r"^```py\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
"""What the guide adds to the example: a class with losses, and a method of it."""
BASE = """
import torch
from torch import nn
from train_head.heads import Head, chosen_scores, unit, unit_mean

class Plain(Head):
    def encode_text_block(self, block): return unit(block.sentence_AD)
    def encode_video_block(self, block): return unit_mean(block.frames.frame_BFD, block.frames.mask_BF)
    def score_block(self, texts, videos): return (texts @ videos.T)[None]
    def pair_flops(self, words, frames): return 2.0 * self.config.dimension + 0 * words * frames
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the example as my_heads.py; what is imported from there is forgotten again."""
    assert EXAMPLE is not None
    (tmp_path / "my_heads.py").write_text(EXAMPLE[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    before = set(sys.modules)
    own_class.cache_clear()
    yield tmp_path
    own_class.cache_clear()
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def training(cache_path: Path, **given: object) -> TrainOptions:
    options = TrainOptions(
        cache=cache_path, out=Path("runs/max"), head="my_heads:MaxHead", epochs=1, batch_size=20, device="cpu", quiet=True
    )
    return replace(options, **given)  # type: ignore[arg-type]


def evaluation(cache_path: Path, run: str) -> EvaluateOptions:
    return EvaluateOptions(cache=cache_path, run=run, out=Path("results"), device="cpu", report=False, quiet=True)


def test_the_documented_head_has_about_thirty_lines() -> None:
    assert EXAMPLE is not None
    assert len(EXAMPLE[1].splitlines()) <= 30


@pytest.mark.long
def test_the_documented_head_is_trained_evaluated_swept_and_searched_with(
    folder: Path, cache_path: Path, cache: FeatureCache, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_head.main(training(cache_path))
    record = json.loads((run / "run.json").read_text())
    assert record["head"]["head"] == record["trained_with"]["options"]["head"] == "my_heads:MaxHead"
    head, _ = load_head(str(run), cache, torch.device("cpu"))
    assert type(head).__name__ == "MaxHead"
    weight = head.state_dict()["weight.weight"]
    torch.manual_seed(0)
    # The run holds the trained layer, not a new one.
    assert not torch.equal(weight, make_head("my_heads:MaxHead", head.config).state_dict()["weight.weight"])

    results = evaluate.main(evaluation(cache_path, str(run)))
    metrics = json.loads((results / "metrics.json").read_text())
    assert metrics["head_source"] == record["head_source"]
    assert metrics["text_to_video"]["R@10"] > 100 * 10 / metrics["gallery"]

    options = SweepOptions(cache=cache_path, out=folder / "sweep", head="my_heads:MaxHead,mean", seeds=1, epochs="1", batch_size="20",
                           device="cpu", processes=1, quiet=True)  # fmt: skip
    rows = pd.read_csv(sweep.main(options))
    assert rows["head"].tolist() == ["my_heads:MaxHead", "mean"]
    # One run of the sweep is the training above, bit for bit.
    swept, _ = load_head(str(folder / "sweep" / rows["run"][0]), cache, torch.device("cpu"))
    assert torch.equal(swept.state_dict()["weight.weight"], weight)

    capsys.readouterr()
    search.main(SearchOptions(cache=cache_path, run=str(run), query=("a", "red", "ring"), top=2, device="cpu", quiet=True))
    assert len(re.findall(r"^ +[12] ", capsys.readouterr().out, re.MULTILINE)) == 2


def test_a_head_without_parameters_scores_untrained_as_the_built_in_one(folder: Path, cache_path: Path) -> None:
    (folder / "plain.py").write_text(BASE)
    metrics = []
    for name in ("plain:Plain", "mean"):
        out = evaluate.main(replace(evaluation(cache_path, f"zero-shot:{name}"), out=folder / name.partition(":")[0]))
        metrics.append(json.loads((out / "metrics.json").read_text()))
    for direction in ("text_to_video", "video_to_text"):
        assert metrics[0][direction] == metrics[1][direction]


def test_four_scores_and_those_that_scores_chooses(folder: Path, cache_path: Path) -> None:
    (folder / "four.py").write_text(
        BASE
        + """
class Four(Plain):
    NAMES = ("a", "b", "c", "d")
    def score_block(self, texts, videos):
        x = texts @ videos.T
        return torch.stack([x, x**3, -x, 2 * x])[chosen_scores(self.config.scores, self.NAMES)]
"""
    )
    run = train_head.main(training(cache_path, head="four:Four", scores="a+d", temporal="none"))
    metrics = json.loads((evaluate.main(evaluation(cache_path, str(run))) / "metrics.json").read_text())
    assert [row["name"] for row in metrics["scores"]] == ["a", "d"]
    with pytest.raises(UserError, match=r"--scores e: use all, or some of a, b, c, d"):
        train_head.main(training(cache_path, head="four:Four", scores="e", out=folder / "other"))


@pytest.mark.long
def test_tied_weights_are_kept(folder: Path, cache_path: Path, cache: FeatureCache) -> None:
    tied = """
class Tied(Plain):
    def __init__(self, name, config, execution):
        super().__init__(name, config, execution)
        self.one = self.two = nn.Parameter(torch.eye(config.dimension))
    def score_block(self, texts, videos): return (texts @ self.one @ self.two @ videos.T)[None]
"""
    (folder / "tied.py").write_text(BASE + tied)
    run = train_head.main(training(cache_path, head="tied:Tied"))
    head, _ = load_head(str(run), cache, torch.device("cpu"))
    assert head.get_parameter("one") is head.get_parameter("two")


@pytest.mark.long
def test_a_changed_or_missing_source_is_said(
    folder: Path, cache_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "plain.py").write_text(BASE)
    run = train_head.main(training(cache_path, head="plain:Plain", out=folder / "run"))
    unfinished = folder / "unfinished"
    with monkeypatch.context() as interrupting:
        stop_at(interrupting, 2)
        with pytest.raises(KeyboardInterrupt):
            train_head.main(training(cache_path, head="plain:Plain", out=unfinished))

    # The executable glccl keeps the current folder off the module path, where a folder `data` would shadow ours.
    command = [str(ROOT / "glccl"), "evaluate", "--cache", str(cache_path), "--run", str(run), "--out", "results/first"]
    command += ["--no-report", "--quiet"]
    done = subprocess.run(command, env={**ENVIRONMENT, "PYTHON": sys.executable}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

    def imported_anew() -> None:
        own_class.cache_clear()
        del sys.modules["plain"]
        sys.path.remove(str(folder))
        importlib.invalidate_caches()

    imported_anew()
    (folder / "plain.py").write_text(BASE + "# changed\n")
    capsys.readouterr()
    evaluate.main(replace(evaluation(cache_path, str(run)), out=Path("results/second")))
    note = rf"note: {folder}/plain.py has changed since the run {run} was trained \(SHA-256 .*\): the scores may be others\n"
    assert re.fullmatch(note, capsys.readouterr().err)
    # Results of two sources are not seeds of one setting.
    assert len(compare.main(CompareOptions(results=(Path("results"),)))["rows"]) == 2

    # A checkpoint of the other source is not continued.
    with pytest.raises(UserError, match=r"--resume cannot continue .*: the source of head plain:Plain has changed since it began"):
        train_head.main(training(cache_path, head="plain:Plain", out=unfinished, resume=True))

    imported_anew()
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    with pytest.raises(UserError, match=f"--run {run} was trained with a head of its own: head plain:Plain: there is no module plain in "):
        evaluate.main(evaluation(cache_path, str(run)))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("bad:", r"write a class of your own as package.module:Class"),
        ("a b:C", r"write a class of your own as package.module:Class"),
        ("nowhere.at_all:C", r"there is no module nowhere in .* or on PYTHONPATH: start in the folder that holds nowhere"),
        ("bad.deeper:C", r"importing bad.deeper failed|there is no module bad.deeper"),
        ("bad:Missing", r"module bad has no such class: its heads are Plain, Incomplete, "),
        ("bad:torch", r"module bad has torch, which is not a subclass of train_head.heads.Head"),
        ("bad:Incomplete", r"the class lacks encode_text_block, encode_video_block, pair_flops: define them"),
        ("bad:Signature", r"its __init__ must take \(name, config, execution\), but takes \(name, config\)"),
        ("bad:NoSuper", r"its __init__ must hand name, config and execution to super\(\).__init__"),
        ("bad:Fails", r"its __init__ failed \(ValueError: no\) in .*bad.py, line \d+: mend it there"),
        ("bad:Flat", r"scoring random vectors with it failed \(IndexError: .*\): compare its methods"),
        ("bad:TooFew", r"gave \[1, 3, 2\] instead of \[2, 3, 2\]"),
        ("bad:Nan", r"a score of random vectors is not finite"),
        ("bad:Flops", r"pair_flops must return a number for each pair, and returns nan"),
        ("bad:Shape", r"its pair_flops failed \(ValueError: .*\)"),
        ("bad:Leaves", r"scoring random vectors with it failed \(SystemExit: 5\) in .*bad.py, line \d+: mend it there"),
        ("bad:Names", r"NAMES is \('a\+b',\): name each score once"),
        ("bad:Unnamed", r"extra_losses returns near, but extra_loss_names lists none: make them agree"),
        ("bad:Other", r"extra_losses returns far, but extra_loss_names lists near: make them agree"),
        ("bad:Column", r"extra_loss_names is \('csc',\): name each loss once, .* and not RSum or cdcr or contrastive or csc or"),
        ("bad:Vectors", r"extra_losses, for 'near', must return a tensor that is one finite number, and returns one of shape \[2\]"),
        ("bad:Infinite", r"extra_losses, for 'near', must return a tensor that is one finite number, and returns nan"),
        ("bad:Number", r"extra_losses, for 'near', must return a tensor that is one finite number, and returns float"),
        ("bad:Two", r"its extra_losses failed \(TypeError: .* positional arguments but 4 were given\)"),
        ("syntax:C", r"importing syntax failed \(SyntaxError: .*\) in .*syntax.py, line 1: mend it there"),
        ("script:C", r"importing script failed \(SystemExit: 2\) in .*script.py, line 2: mend it there"),
        ("needs:C", r"importing needs failed \(ModuleNotFoundError: No module named 'not_installed'\) in .*needs.py, line 1: mend"),
    ],
)
def test_what_is_not_a_head_is_refused_in_one_line(folder: Path, cache_path: Path, head: str, message: str) -> None:
    (folder / "bad.py").write_text(
        BASE
        + """
class Incomplete(Head):
    def score_block(self, texts, videos): return texts
class Signature(Plain):
    def __init__(self, name, config): super().__init__(name, config)
class NoSuper(Plain):
    def __init__(self, name, config, execution): nn.Module.__init__(self)
class Fails(Plain):
    def __init__(self, name, config, execution): raise ValueError("no")
class Flat(Plain):
    def score_block(self, texts, videos): return texts @ videos.T
class TooFew(Plain):
    NAMES = ("a", "b")
class Nan(Plain):
    def score_block(self, texts, videos): return 0 * (texts @ videos.T)[None] / 0
class Names(Plain):
    NAMES = ("a+b",)
class Flops(Plain):
    def pair_flops(self, words, frames): return None
class Shape(Plain):
    def pair_flops(self, words, frames): return words[:2] + frames
class Leaves(Plain):
    def score_block(self, texts, videos): raise SystemExit(5)
class Unnamed(Plain):
    def extra_losses(self, texts, videos, left_out_AB=None): return {"near": texts.sentence_AD.sum()}
class Other(Plain):
    extra_loss_names = ("near",)
    def extra_losses(self, texts, videos, left_out_AB=None): return {"far": texts.sentence_AD.sum()}
class Column(Plain):
    extra_loss_names = ("csc",)
    def extra_losses(self, texts, videos, left_out_AB=None): return {"csc": texts.sentence_AD.sum()}
class Vectors(Other):
    def extra_losses(self, texts, videos, left_out_AB=None): return {"near": texts.sentence_AD.sum(dim=1)}
class Infinite(Other):
    def extra_losses(self, texts, videos, left_out_AB=None): return {"near": 0 * texts.sentence_AD.sum() / 0}
class Number(Other):
    def extra_losses(self, texts, videos, left_out_AB=None): return {"near": 1.0}
class Two(Other):
    def extra_losses(self, texts, videos): return {"near": texts.sentence_AD.sum()}
"""
    )
    (folder / "script.py").write_text("import argparse\nargparse.ArgumentParser().parse_args(['--option-of-ours'])\n")
    (folder / "syntax.py").write_text("def x(:\n")
    (folder / "needs.py").write_text("import not_installed\n")
    with pytest.raises(UserError, match=f"head {re.escape(head)}: .*{message}") as found:
        train_head.main(training(cache_path, head=head))
    assert "\n" not in str(found.value)
    assert not (folder / "runs").exists()


def test_the_documented_losses_of_a_head_work(folder: Path, cache_path: Path) -> None:
    assert EXAMPLE is not None
    (folder / "losing.py").write_text("\n".join([EXAMPLE[1], "", *ADDED]))
    run = train_head.main(training(cache_path, head="losing:SparseHead", cdcr=0.001))
    losses = pd.read_csv(run / "log.csv").iloc[-1]
    assert losses["sparse"] > 0
    assert losses["cdcr"] > 0
    assert losses["loss"] == pytest.approx(losses["contrastive"] + losses["sparse"] + losses["cdcr"])


def test_trying_a_head_out_changes_neither_its_state_nor_the_random_numbers(folder: Path) -> None:
    (folder / "counting.py").write_text(
        BASE
        + """
class Counting(Plain):
    extra_loss_names = ("noise",)
    def __init__(self, name, config, execution):
        super().__init__(name, config, execution)
        self.norm = nn.BatchNorm1d(config.dimension)
    def extra_losses(self, texts, videos, left_out_AB=None): return {"noise": self.norm(texts.sentence_AD).mean() * torch.rand(())}
    def encode_text_block(self, block): return unit(self.norm(block.sentence_AD))
"""
    )
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    head = make_head("counting:Counting", HeadConfig(8, 4, 1.0), Execution())
    assert int(head.state_dict()["norm.num_batches_tracked"]) == 0
    assert torch.equal(torch.rand(3), expected)
    assert head.training


def test_subclasses_of_heads_that_freeze_a_weight_or_add_a_loss_are_heads(folder: Path, cache_path: Path) -> None:
    """`tight` does not train its logit scale, and `tmass` draws noise and has a loss of its own."""
    (folder / "ours.py").write_text(
        """
from train_head.heads.pairs.tight import TightHead
from train_head.heads.tmass import TmassHead
class Tight(TightHead): pass
class Mass(TmassHead):
    extra_loss_names = ("support", "small")
    def extra_losses(self, texts, videos, left_out_AB=None):
        return super().extra_losses(texts, videos, left_out_AB) | {"small": 0.1 * self.radius.square().mean()}
"""
    )
    config = HeadConfig(8, 4, 1.0, max_frames=3)
    assert not make_head("ours:Tight", config).logit_scale.requires_grad
    torch.manual_seed(1)
    draws = make_head("tmass", config).state_dict()["draws"]
    torch.manual_seed(1)
    assert torch.equal(make_head("ours:Mass", config).state_dict()["draws"], draws)
    run = train_head.main(training(cache_path, head="ours:Mass", temporal="none"))
    assert list(pd.read_csv(run / "log.csv").columns[:6]) == ["epoch", "loss", "contrastive", "csc", "support", "small"]


def test_what_a_head_prints_leaves_standard_output_to_the_results(
    folder: Path, cache_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "talks.py").write_text(f"print('imported')\n{BASE}")
    evaluate.main(replace(evaluation(cache_path, "zero-shot:talks:Plain"), json=True))
    printed, said = capsys.readouterr()
    assert json.loads(printed)["run"] == "zero-shot:talks:Plain"
    assert said == "imported\n"


def test_random_scores_are_said_once(folder: Path, cache_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "random_scores.py").write_text(
        BASE
        + """
class Random(Plain):
    def score_block(self, texts, videos): return (texts @ videos.T + torch.rand(len(texts), len(videos)))[None]
"""
    )
    for _ in range(2):
        evaluate.main(evaluation(cache_path, "zero-shot:random_scores:Random"))
    assert capsys.readouterr().err == (
        "note: head random_scores:Random scores the same vectors differently the second time: its figures cannot be repeated\n"
    )


@pytest.mark.parametrize("kind", ["double", "half"])
def test_a_saved_matrix_ranks_as_the_evaluation_whatever_type_a_head_computes_in(folder: Path, cache_path: Path, kind: str) -> None:
    (folder / "typed.py").write_text(
        BASE
        + f"""
class Typed(Plain):
    def score_block(self, texts, videos): return (texts.{kind}() @ videos.{kind}().T)[None]
"""
    )
    matrix = folder / "scores.npy"
    evaluate.main(replace(evaluation(cache_path, "zero-shot:typed:Typed"), save_scores=matrix))
    score_AB = np.load(matrix)
    assert score_AB.dtype == np.float32
    texts, videos = pd.read_parquet(folder / "scores.texts.parquet"), pd.read_parquet(folder / "scores.videos.parquet")
    answers = pd.Index(videos["video_id"]).get_indexer(texts["video_id"])
    result = json.loads(Path("results/metrics.json").read_text())
    expected = retrieval_metrics(score_AB, answers.tolist())
    assert {name: result[name] for name in expected} == expected
    assert json.loads((folder / "scores.json").read_text())["rounding"] == 0
