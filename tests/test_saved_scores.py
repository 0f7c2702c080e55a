"""Matrices of scores and TREC runs that an evaluation writes: against the evaluation's own ranks, and against trec_eval.

Shape suffixes: S scores of a pair, A texts, B videos, Q queries.
"""

import json
import multiprocessing
import os
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import pytrec_eval
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import evaluate
from data.base.errors import UserError
from data.cache.features import Ragged, TextFeatures, VideoFeatures
from data.compute.processes import ProcessGroup
from data.metrics import DIRECTIONS, RankCounter, retrieval_metrics
from evaluate import EvaluateOptions
from evaluate.cost import measured
from evaluate.scores.matrix import MatrixFiles, ScoreMatrix
from evaluate.scores.saving import SavedScores
from evaluate.scores.trec import BestDocuments, RunFiles, SavedRuns, escaped
from tests.processes import finish, start
from train_head.heads import HeadConfig, make_head
from train_head.scoring.pairs import RankedScores, score_all_pairs
from train_head.scoring.splits import Split

GLCCL = ["video-sentence", "video-word", "sentence-frame", "word-frame"]


@pytest.fixture
def options(cache_path: Path, tmp_path: Path) -> EvaluateOptions:
    return EvaluateOptions(
        cache=cache_path,
        run="zero-shot:glccl",
        out=tmp_path / "out",
        device="cpu",
        report=False,
        quiet=True,
        save_scores=tmp_path / "scores.npy",
        run_file=tmp_path / "run.trec",
    )


def made_split(answers: list[int], ids: list[str], frames: int = 1, dimension: int = 4) -> Split:
    """A split of random features."""
    random = np.random.default_rng(0)

    def features(lengths: list[int]) -> Ragged:
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return Ragged.in_memory(random.standard_normal((int(offsets[-1]), dimension), dtype=np.float32), offsets)

    texts = len(answers)
    return Split(
        name="test",
        preset="table",
        sources=("made",),
        texts=TextFeatures([f"text {i}" for i in range(texts)], features([2] * texts), features([1] * texts)),
        videos=VideoFeatures(ids, features([frames] * len(ids)), [np.arange(frames, dtype=np.float64)] * len(ids)),
        answers=np.array(answers),
        counts={},
    )


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())  # type: ignore[no-any-return]


def answers_beside(path: Path) -> np.ndarray:
    """The column of each row's video, from the files beside a matrix."""
    texts, videos = pd.read_parquet(MatrixFiles(path).texts), pd.read_parquet(MatrixFiles(path).videos)
    assert texts["text"].tolist() == list(range(len(texts)))
    assert videos["video"].tolist() == list(range(len(videos)))
    return np.asarray(pd.Index(videos["video_id"]).get_indexer(pd.Index(texts["video_id"])))


@pytest.mark.parametrize("ties", ["expected", "reference"])
def test_the_matrix_has_the_metrics_of_the_evaluation(options: EvaluateOptions, ties: Any) -> None:
    assert options.save_scores is not None
    result = read(evaluate.main(replace(options, ties=ties)))
    score_AB = np.load(options.save_scores, mmap_mode="r")
    assert (score_AB.dtype, score_AB.shape) == (np.float32, (result["queries"], result["gallery"]))
    found = retrieval_metrics(np.array(score_AB), answers_beside(options.save_scores), ties)
    assert found == {name: result[name] for name in found}
    made = json.loads(options.save_scores.with_suffix(".json").read_text())
    assert made["scores"] == [GLCCL]
    assert {name: made[name] for name in ("run", "split", "cache_digest", "rounding")} == {
        **{name: result[name] for name in ("run", "split", "cache_digest")},
        "rounding": 0.0,
    }
    assert [path for path in options.save_scores.parent.iterdir() if path.name.startswith(".")] == []


def test_one_score_several_and_all(options: EvaluateOptions) -> None:
    assert options.save_scores is not None
    found = {}
    for of in ("all", "word-frame", "sentence-frame+word-frame", "mean"):
        result = read(evaluate.main(replace(options, save_scores_of=of)))
        found[of] = np.load(options.save_scores)
    rows = {row["name"]: row for row in result["scores"]}
    answers = answers_beside(options.save_scores)
    assert found["all"].shape == (4, *found["mean"].shape)
    for name, score_AB in zip(GLCCL, found["all"], strict=True):
        expected = retrieval_metrics(score_AB, answers)
        assert {key: rows[name][key] for key in expected} == expected
    assert np.array_equal(found["word-frame"], found["all"][3])
    assert np.array_equal(found["sentence-frame+word-frame"], torch.from_numpy(found["all"][2:]).mean(dim=0).numpy())
    np.save(options.save_scores, found["all"])
    with pytest.raises(UserError, match=r"scores.npy holds 4 scores of each pair: save one"):
        ScoreMatrix.read(options.save_scores)
    single = read(evaluate.main(replace(options, run="zero-shot:mean", save_scores_of="score")))
    assert retrieval_metrics(np.load(options.save_scores), answers)["RSum"] == single["RSum"]


def test_float16_says_by_how_much_it_rounds(options: EvaluateOptions, capsys: pytest.CaptureFixture[str]) -> None:
    assert options.save_scores is not None
    evaluate.main(options)
    exact = np.load(options.save_scores)
    evaluate.main(replace(options, save_scores_dtype="float16", quiet=False))
    rounded = np.load(options.save_scores)
    assert rounded.dtype == np.float16
    assert np.array_equal(rounded, exact.astype(np.float16))
    moved = float(np.abs(exact - rounded.astype(np.float32)).max())
    assert json.loads(options.save_scores.with_suffix(".json").read_text())["rounding"] == pytest.approx(moved)
    assert f"note: float16 moved scores by up to {moved:.3g}, so ranks from {options.save_scores} may differ" in capsys.readouterr().err


def test_a_score_beyond_float16_is_refused(tmp_path: Path) -> None:
    saved = SavedScores(MatrixFiles(tmp_path / "scores.npy"), made_split([0, 1], ["a", "b"]), [[0]], "float16", each=False)
    with (
        saved.opened(ProcessGroup()),
        pytest.raises(UserError, match=r"float16: the score 70000 of caption 'text 1' and video b is beyond 65504: use .* float32"),
    ):
        saved.update(torch.tensor([[[1.0, 2.0], [3.0, 7e4]]]), torch.arange(2), torch.arange(2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_several_processes_write_the_same_files_as_one(options: EvaluateOptions, tmp_path: Path) -> None:
    command: list[str | Path] = ["tests.small_blocks", "--cache", options.cache, "--run", options.run, "--device", "cpu"]
    command += ["--no-report", "--quiet"]
    # Blocks of two videos, which the processes write at the same time.
    shared = tmp_path / "shared"
    command += ["--out", shared / "out", "--save-scores", shared / "scores.npy", "--run-file", shared / "run.trec"]
    done = finish(start([command] * 2))
    assert [status for status, _, _ in done] == [0, 0], done
    evaluate.main(options)
    for name in ("scores.npy", "scores.texts.parquet", "run.trec", "run.qrels", "run.video-to-text.trec"):
        assert (shared / name).read_bytes() == (tmp_path / name).read_bytes(), name
    assert {path.name for path in shared.iterdir() if path.name.startswith(".")} == set()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"save_scores": Path("scores.txt")}, r"--save-scores scores.txt: name it NAME.npy"),
        ({"save_scores": None, "save_scores_of": "all"}, r"--save-scores-of and --save-scores-dtype go with --save-scores"),
        ({"save_scores_of": "word"}, r"--save-scores-of word: use mean, all, or some of video-sentence, "),
        ({"run_file": Path("run.txt")}, r"--run-file run.txt: name it NAME.trec"),
        ({"run_file": None, "run_depth": 10}, r"--run-depth goes with --run-file"),
        ({"run_depth": 0}, r"--run-depth 0 must be at least 1"),
    ],
)
def test_wrong_options_are_refused(options: EvaluateOptions, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate.main(replace(options, **change))
    assert not options.out.exists()


def test_a_matrix_does_not_take_the_name_of_a_result(options: EvaluateOptions) -> None:
    with pytest.raises(UserError, match=r"metrics.json in .* is a file of the results: choose another name"):
        evaluate.main(replace(options, save_scores=options.out / "metrics.npy"))
    assert options.save_scores is not None
    assert evaluate.main(replace(options, save_scores=options.out / "scores.npy", run_file=options.out / "run.trec")) == options.out
    # And again, into the folder of the first results.
    evaluate.main(replace(options, save_scores=options.out / "scores.npy", run_file=options.out / "run.trec"))


def test_a_matrix_does_not_replace_the_json_of_something_else(options: EvaluateOptions, tmp_path: Path) -> None:
    """Such as run.json, without which a run is lost."""
    for content in ('{"head": {}}', "[]", "no JSON"):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(UserError, match=r"--save-scores .*run.npy would replace .*run.json, which belongs to something else: choose"):
            evaluate.main(replace(options, save_scores=tmp_path / "run.npy"))
        assert (tmp_path / "run.json").read_text() == content
    assert not options.out.exists()


@pytest.mark.parametrize("name", ["scores.npy", "scores.json", "run.qrels", "run.video-to-text.trec"])
def test_a_folder_in_place_of_a_file_is_found_before_the_work(options: EvaluateOptions, name: str) -> None:
    assert options.save_scores is not None
    (options.save_scores.parent / name).mkdir()
    with pytest.raises(UserError, match=rf"{name} is a folder: name a file"):
        evaluate.main(options)
    assert not options.out.exists()


def _begin_with_no_room(folder: Path, reserves: bool) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
    if not reserves:
        del os.posix_fallocate  # as on macOS
    saved = SavedScores(MatrixFiles(folder / "scores.npy"), made_split([0] * 1000, [f"v{i}" for i in range(1000)]), [[0]], "float32", False)
    message = r"scores.npy cannot be written \(File too large\): make room, or choose another --save-scores"
    with pytest.raises(UserError, match=message), saved.opened(ProcessGroup()):
        raise AssertionError("four million bytes found room")


@pytest.mark.parametrize("reserves", [True, False])
def test_a_disk_without_room_is_found_before_scoring(tmp_path: Path, reserves: bool) -> None:
    (tmp_path / "scores.npy").write_bytes(b"old")
    process = multiprocessing.get_context("fork").Process(target=_begin_with_no_room, args=(tmp_path, reserves))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"scores.npy": b"old"}


def test_an_interrupted_evaluation_keeps_the_old_matrix(options: EvaluateOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    assert options.save_scores is not None
    evaluate.main(options)
    before = {path: path.read_bytes() for path in options.save_scores.parent.iterdir() if path.is_file()}

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SavedScores, "share_counts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate.main(replace(options, run="zero-shot:mean"))
    assert {path: path.read_bytes() for path in options.save_scores.parent.iterdir() if path.is_file()} == before


def extra_mib(folder: Path, videos: int) -> float:
    """Peak memory of scoring 1,000 texts with these videos, into a file, on top of the features."""
    # Of so many frames that the smaller gallery too has blocks of the full size.
    split = made_split([i % 1000 for i in range(1000)], [f"v{i}" for i in range(videos)], frames=6, dimension=8)
    head = make_head("mean", HeadConfig(8, 2, 1.0))
    saved = SavedScores(MatrixFiles(folder / f"{videos}.npy"), split, [[0]], "float32", each=False)
    counter = RankCounter(split.answers, videos)
    with saved.opened(ProcessGroup()), measured(torch.device("cpu")) as cost:
        score_all_pairs(head, split.texts, split.videos, split.answers, [RankedScores(counter), saved], memory_budget=2**20)
    if cost.peak_extra_mib is None:
        pytest.skip("this system does not tell a process's peak memory")
    return cost.peak_extra_mib


@pytest.mark.long
def test_memory_does_not_grow_with_the_gallery(tmp_path: Path) -> None:
    extra_mib(tmp_path, 1000)  # loads what the next two need
    small, large = (extra_mib(tmp_path, videos) for videos in (1000, 16_000))
    # The matrices differ by 57 MiB. What grows are a few numbers per video: ranks, counts, frames on their way.
    assert large - small < 15


# TREC


def run_of(path: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for line in path.read_text().splitlines():
        query, q0, document, rank, score, _ = line.split(" ")
        assert q0 == "Q0"
        assert int(rank) == len(found.setdefault(query, {})) + 1
        found[query][document] = float(score)
    return found


def qrels_of(path: Path) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for line in path.read_text().splitlines():
        query, _, document, relevance = line.split(" ")
        found.setdefault(query, {})[document] = int(relevance)
    return found


def by_trec_eval(run: Path, qrels: Path) -> dict[str, dict[str, float]]:
    evaluator = pytrec_eval.RelevanceEvaluator(qrels_of(qrels), {"recall.1,5,10", "recip_rank", "map"})
    return evaluator.evaluate(run_of(run))


def test_trec_eval_finds_the_figures_of_the_evaluation(options: EvaluateOptions) -> None:
    assert options.run_file is not None
    files = RunFiles(options.run_file)
    result = read(evaluate.main(options))
    for direction, run, qrels in zip(DIRECTIONS, (files.run, files.video_run), (files.qrels, files.video_qrels), strict=True):
        found = by_trec_eval(run, qrels)
        ranks = pd.read_parquet(options.out / f"ranks-{direction.replace('_', '-')}.parquet")
        # No answer ties here, so that both have one rank for each.
        assert (ranks["best_rank"] == ranks["worst_rank"]).all()
        assert len(found) == len(ranks)
        for k in (1, 5, 10):
            assert 100 * np.mean([query[f"recall_{k}"] for query in found.values()]) == pytest.approx(result[direction][f"R@{k}"])
        for name in ("recip_rank", "map"):
            assert np.mean([query[name] for query in found.values()]) == pytest.approx(float((1 / ranks["rank"]).mean()), abs=1e-6)
    captions = [line.split("\t") for line in files.queries.read_text().splitlines()]
    texts = pd.read_parquet(options.out / "ranks-text-to-video.parquet")
    assert captions == [[str(query), caption] for query, caption in zip(texts["query"], texts["caption"], strict=True)]
    # The scores are those of the matrix, to the bit.
    assert options.save_scores is not None
    saved = np.load(options.save_scores)
    videos = pd.read_parquet(options.save_scores.with_suffix(".videos.parquet"))["video_id"].tolist()
    for query, documents in run_of(files.run).items():
        assert {document: np.float32(score) for document, score in documents.items()} == dict(zip(videos, saved[int(query)], strict=True))


def write_runs(folder: Path, score_AB: Tensor, answers: list[int], ids: list[str], depth: int, columns: int = 3) -> RunFiles:
    """The runs of a matrix that arrives in blocks of a few columns."""
    files = RunFiles.named(folder / "run.trec")
    saved = SavedRuns(files, made_split(answers, ids), depth)
    for videos in torch.arange(len(ids)).flip(0).split(columns):
        block = videos.flip(0)
        saved.update(score_AB[None][:, :, block], torch.arange(len(answers)), block)
    saved.share_counts(ProcessGroup())
    saved.write("a run")
    return files


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), videos=st.integers(1, 8), depth=st.integers(1, 9), spread=st.sampled_from([1, 3, 50]))
def test_ties_follow_trec_eval(seed: int, videos: int, depth: int, spread: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    random = np.random.default_rng(seed)
    ids = [f"v{i}" for i in random.permutation(20)[:videos]]
    answers = random.integers(videos, size=9).tolist()
    score_AB = torch.from_numpy(random.integers(-spread, spread + 1, (9, videos)).astype(np.float32) / 3)
    score_AB[score_AB == 0] *= -1  # -0.0 ties with 0.0
    files = write_runs(tmp_path_factory.mktemp("runs"), score_AB, answers, ids, depth)

    def plain(scores: dict[str, float], own: str) -> dict[str, float]:
        order = sorted(scores, key=lambda name: (scores[name], name), reverse=True)[:depth]
        rank = order.index(own) + 1 if own in order else np.inf
        return {**{f"recall_{k}": float(rank <= k) for k in (1, 5, 10)}, "recip_rank": 1 / rank, "map": 1 / rank}

    found = by_trec_eval(files.run, files.qrels)
    for text, answer in enumerate(answers):
        expected = plain(dict(zip(ids, score_AB[text].tolist(), strict=True)), ids[answer])
        assert found[str(text)] == pytest.approx(expected)
    owners = sorted({*answers})
    found = by_trec_eval(files.video_run, files.video_qrels)
    assert found.keys() == {ids[owner] for owner in owners}
    for video in owners:
        best = {ids[owner]: max(score_AB[a, video].item() for a in range(9) if answers[a] == owner) for owner in owners}
        assert found[ids[video]] == pytest.approx(plain(best, ids[video]))


@settings(max_examples=50, deadline=None)
@given(scores=st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=20), depth=st.integers(1, 20))
def test_the_best_documents_keep_every_bit_of_their_scores(scores: list[float], depth: int) -> None:
    names = [f"d{i:02}" for i in range(len(scores))]
    best = BestDocuments(1, names, depth)
    for i in np.random.default_rng(0).permutation(len(scores)):
        best.update(torch.tensor([[scores[i]]]), torch.tensor([0]), torch.tensor([int(i)]))
    ((_, documents, values),) = best.found()
    expected = sorted(range(len(scores)), key=lambda i: (scores[i], names[i]), reverse=True)[:depth]
    assert documents.tolist() == expected
    assert values.tolist() == [scores[i] for i in expected]
    assert [float(np.float32(float(f"{value:.9g}"))) for value in values.tolist()] == values.tolist()


@given(names=st.lists(st.text(min_size=1), unique=True))
def test_ids_have_no_blanks_and_stay_apart(names: list[str]) -> None:
    found = [escaped(name.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")) for name in names]
    assert all(len(name.split()) == 1 for name in found)
    assert len(set(found)) == len(names)
    assert [
        unquote(name, errors="surrogateescape").encode("utf-8", "surrogateescape").decode("utf-8", "surrogatepass") for name in found
    ] == names


def test_an_id_with_blanks_is_found_by_trec_eval(tmp_path: Path) -> None:
    ids = ["my video.mp4", "100% real.mp4", "plain"]
    files = write_runs(tmp_path, torch.eye(3), [0, 1, 2], ids, 3)
    assert {query["recall_1"] for query in by_trec_eval(files.run, files.qrels).values()} == {1.0}
    assert "my%20video.mp4" in files.qrels.read_text()
    assert files.run.read_text().splitlines()[0] == "0 Q0 my%20video.mp4 1 1 a%20run"
