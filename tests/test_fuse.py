"""Fusions of score matrices against plain ones, computed from whole matrices.

Shape suffixes: A texts, B videos, M matrices, Q queries, N entries that a query ranks.
"""

import json
import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import evaluate
from data.base.errors import UserError
from data.metrics import DIRECTIONS, retrieval_metrics
from evaluate import EvaluateOptions, compare, fuse
from evaluate.compare import CompareOptions
from evaluate.cost import measured
from evaluate.fuse import FuseOptions, fusion
from evaluate.fuse.aligned import Alignment
from evaluate.ranks import RankTables
from evaluate.scores.matrix import REQUIRED, MatrixFiles, ScoreMatrix

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def evaluated(cache_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of results by the head, each with its matrix."""
    folder = tmp_path_factory.mktemp("evaluated")
    found = {}
    for head in ("glccl", "mean"):
        out = folder / head
        options = EvaluateOptions(cache=cache_path, run=f"zero-shot:{head}", out=out, device="cpu", report=False, quiet=True)
        found[head] = evaluate.main(replace(options, save_scores=out / "scores.npy"))
    return found


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())  # type: ignore[no-any-return]


def saved(path: Path, score_AB: Array, captions: list[str], owners: list[str], videos: list[str], **made: object) -> Path:
    """A matrix with the files beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, score_AB)
    counts = dict.fromkeys(("videos_scored", "videos_expected", "videos_present", "videos_decoded"), len(videos))
    counts |= dict.fromkeys(("captions_scored", "captions_expected"), len(captions))
    about = dict.fromkeys(REQUIRED) | {"run": path.stem, "preset": "table", "split": "test", "counts": counts, "trained_on": 0}
    MatrixFiles(path).write_beside(captions, owners, videos, about | made)
    return path


def plain_ranks(score_N: Array) -> list[float]:
    """The expected rank of every entry."""
    return [float((score_N > own).sum() + 1 + ((score_N == own).sum() - 1) / 2) for own in score_N]


def plain_fusion(score_MAB: list[Array], weights: list[float], method: str, normalize: str, answers: Array) -> tuple[Array, Array]:
    """For each direction, the fused scores of what a query ranks: texts x videos, and videos x videos with text by their best texts."""
    texts, videos = score_MAB[0].shape
    owners = sorted({*answers.tolist()})
    entries: Any = {"text_to_video": np.zeros((texts, videos)), "video_to_text": np.zeros((videos, len(owners)))}
    if method == "rrf":
        for a in range(texts):
            ranks = [plain_ranks(score_AB[a]) for score_AB in score_MAB]
            for b in range(videos):
                entries["text_to_video"][a, b] = sum(sorted(w / (60 + rank[b]) for w, rank in zip(weights, ranks, strict=True)))
        for b in range(videos):
            ranks = [plain_ranks(np.array([score_AB[answers == owner, b].max() for owner in owners])) for score_AB in score_MAB]
            for g in range(len(owners)):
                entries["video_to_text"][b, g] = sum(sorted(w / (60 + rank[g]) for w, rank in zip(weights, ranks, strict=True)))
        return entries["text_to_video"], entries["video_to_text"]
    for axis, direction in ((1, "text_to_video"), (0, "video_to_text")):
        fused = np.zeros((texts, videos))
        for weight, score_AB in zip(weights, score_MAB, strict=True):
            x_AB = score_AB.astype(np.float64)
            if normalize == "z-score":
                x_AB = (x_AB - x_AB.mean()) / (x_AB.std() or 1)
            elif normalize == "min-max":
                x_AB = (x_AB - x_AB.min()) / ((x_AB.max() - x_AB.min()) or 1)
            elif normalize == "softmax":
                x_AB = np.exp(x_AB) / np.exp(x_AB).sum(axis=axis, keepdims=True)
            fused += weight * x_AB
        best = np.array([[fused[answers == owner, b].max() for owner in owners] for b in range(videos)])
        entries[direction] = fused if axis == 1 else best
    return entries["text_to_video"], entries["video_to_text"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    rule=st.sampled_from(["sum z-score", "sum min-max", "sum softmax", "sum none", "rrf z-score"]),
    matrices=st.integers(1, 3),
    captions=st.integers(1, 3),
    rounded=st.booleans(),
    weighted=st.booleans(),
)
def test_a_fusion_equals_the_plain_one(
    seed: int, rule: str, matrices: int, captions: int, rounded: bool, weighted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the blocks, the order of texts and videos in the files, and how many captions a video has."""
    # One or two queries a block.
    monkeypatch.setattr(fusion, "BLOCK_BYTES", 100)
    method, normalize = rule.split()
    random = np.random.default_rng(seed)
    videos = int(random.integers(1, 7))
    ids, texts = [f"v{i}" for i in range(videos)], videos * captions
    answers = random.permutation(np.concatenate([np.arange(videos), random.integers(videos, size=texts - videos)]))
    # Equal captions of one video are told apart by their order, which the files change.
    assume(len({(answers[a], a // 2) for a in range(texts)}) == texts)
    score_MAB = [random.standard_normal((texts, videos)).astype(np.float32) for _ in range(matrices)]
    if rounded:  # ties within a matrix
        score_MAB = [np.round(score_AB) for score_AB in score_MAB]
    paths = []
    for m, score_AB in enumerate(score_MAB):
        rows, columns = (random.permutation(n) if m else np.arange(n) for n in (texts, videos))
        owners = [ids[answers[a]] for a in rows]
        # Two equal captions of two videos are two texts.
        paths.append(
            saved(
                tmp_path / f"{m}.npy",
                np.ascontiguousarray(score_AB[rows][:, columns]),
                [f"text {a // 2}" for a in rows],
                owners,
                [ids[b] for b in columns],
            )
        )
    weights = [float(2**m) if weighted else 1.0 for m in range(matrices)]
    options = FuseOptions(tuple(paths), tmp_path / "out", method=method, normalize=normalize, quiet=True)  # type: ignore[arg-type]
    fuse.main(replace(options, weights=",".join(map(str, weights)) if weighted else None))
    found = RankTables.read(tmp_path / "out").ranks()
    by_text, by_video = plain_fusion(score_MAB, weights, method, normalize, answers)
    owners_of = sorted({*answers.tolist()})
    for ranks, score_QN, own in ((found[0], by_text, answers), (found[1], by_video[owners_of], np.arange(len(owners_of)))):
        for best, worst, score_N, mine in zip(ranks.best_Q, ranks.worst_Q, score_QN, own, strict=True):
            # The plain form rounds elsewhere: an entry within a few last bits of the answer's may lie on either side of it.
            near = np.abs(score_N - score_N[mine]) < 1e-13
            higher = int(((score_N > score_N[mine]) & ~near).sum())
            assert higher + 1 <= best <= worst <= higher + near.sum()
            if method == "rrf" or normalize == "none":
                assert (best, worst) == ((score_N > score_N[mine]).sum() + 1, (score_N >= score_N[mine]).sum())


@pytest.mark.parametrize("given", [{}, {"normalize": "min-max"}, {"normalize": "none"}, {"normalize": "softmax"}, {"method": "rrf"}])
def test_a_single_matrix_keeps_its_ranks(evaluated: dict[str, Path], tmp_path: Path, given: dict[str, Any]) -> None:
    for folder in evaluated.values():
        result = read(fuse.main(FuseOptions((folder / "scores.npy",), tmp_path / folder.name, quiet=True, **given)))
        expected = read(folder)
        assert {name: result[name] for name in (*DIRECTIONS, "RSum", "intervals")} == {
            name: expected[name] for name in (*DIRECTIONS, "RSum", "intervals")
        }


def test_results_of_a_fusion_are_compared_with_those_of_evaluations(
    evaluated: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    matrices = tuple(folder / "scores.npy" for folder in evaluated.values())
    out = fuse.main(FuseOptions(matrices, tmp_path / "fused", weights="3,1", normalize="none", quiet=True))
    result = read(out)
    scores = [np.load(path) for path in matrices]
    beside = ScoreMatrix.read(matrices[0])
    answers = [beside.videos.index(owner) for owner in beside.owners]
    expected = retrieval_metrics(3.0 * scores[0].astype(np.float64) + scores[1], answers)
    assert {name: result[name] for name in expected} == expected
    assert [(one["run"], one["weight"]) for one in result["fused"]] == [("zero-shot:glccl", 3.0), ("zero-shot:mean", 1.0)]
    printed = capsys.readouterr().out
    assert printed.startswith("demo test: scored 12 of 12 videos expected")
    assert "sum of 3 zero-shot:glccl, 1 zero-shot:mean" in printed
    compared = compare.main(CompareOptions(results=(*evaluated.values(), out), base=evaluated["glccl"]))
    assert len(compared["rows"]) == 3
    # The options file repeats the command, into the folder of its own results.
    assert (out / "options.yaml").read_text().startswith("# python -m evaluate.fuse --options")
    before = (out / "ranks-text-to-video.parquet").read_bytes()
    fuse.main(FuseOptions(matrices, out, weights="3,1", normalize="none", quiet=True))
    assert (out / "ranks-text-to-video.parquet").read_bytes() == before


def made_by_hand(path: Path, score_AB: Array, captions: list[str], owners: list[Any], videos: list[Any]) -> Path:
    """A matrix as other programs may write it: scores and ids alone."""
    np.save(path, score_AB)
    pd.DataFrame({"caption": captions, "video_id": owners}).to_parquet(path.with_suffix(".texts.parquet"))
    pd.DataFrame({"video_id": videos}).to_parquet(path.with_suffix(".videos.parquet"))
    return path


def test_matrices_of_other_programs_need_no_more_than_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their results lack what is not known, and are compared with each other."""
    random = np.random.default_rng(0)
    captions, ids = [f"text {a}" for a in range(6)], [7, 8, 9]
    score_MAB = [random.standard_normal((6, 3)) for _ in range(2)]
    owners = [7, 8, 9, 7, 8, 9]
    paths = tuple(made_by_hand(tmp_path / f"{m}.npy", score_AB, captions, owners, ids) for m, score_AB in enumerate(score_MAB))
    out = fuse.main(FuseOptions(paths, tmp_path / "out", normalize="none"))
    printed, said = capsys.readouterr()
    assert f"note: no NAME.json says what made {paths[0]}, {paths[1]}: the results lack" in said
    assert printed.startswith("6 texts and 3 videos, whose data set and split are not recorded\n")
    result = read(out)
    expected = retrieval_metrics(score_MAB[0] + score_MAB[1], [0, 1, 2, 0, 1, 2])
    assert {name: result[name] for name in expected} == expected
    assert (result["run"], result["split"], result["counts"], result["trained_on"]) == ("sum of 0, 1", None, None, None)
    one = fuse.main(FuseOptions(paths[:1], tmp_path / "one", normalize="none", quiet=True))
    compared = compare.main(CompareOptions(results=(out, one), base=one, out=tmp_path / "summary"))
    assert len(compared["rows"]) == 2

    # Beside a matrix of an evaluation, the results have what that one knows.
    known = saved(
        tmp_path / "known.npy",
        score_MAB[0],
        captions,
        [str(owner) for owner in owners],
        [str(one) for one in ids],
        selected_on="test",
        train_videos=5,
    )
    both = read(fuse.main(FuseOptions((paths[0], known), tmp_path / "both", quiet=True)))
    assert (both["preset"], both["split"], both["selected_on"], both["train_videos"]) == ("table", "test", "test", 5)
    assert both["counts"]["captions_scored"] == 6


def test_an_epoch_chosen_on_test_stays_labelled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, ids = ["a", "b"], ["v0", "v1"]
    paths = (
        saved(tmp_path / "one.npy", np.eye(2, dtype=np.float32), texts, ids, ids, selected_on="val", train_videos=7),
        saved(tmp_path / "two.npy", np.eye(2, dtype=np.float32), texts, ids, ids, selected_on="test", train_videos=9),
    )
    fuse.main(FuseOptions(paths, tmp_path / "out", quiet=True))
    assert "trained on 9 videos; epoch chosen on test, as is common in the field: not a result on unseen data" in capsys.readouterr().out


def extra_mib(folder: Path, videos: int) -> float | None:
    """Peak memory of fusing two matrices of 500 texts and these videos; None if this system does not tell it."""
    ids = [f"v{i}" for i in range(videos)]
    texts = [f"text {i}" for i in range(500)]
    random = np.random.default_rng(0)
    paths = [
        saved(folder / f"{videos}-{m}.npy", random.standard_normal((500, videos), dtype=np.float32), texts, ids[:500], ids) for m in (0, 1)
    ]
    alignment = Alignment.of([ScoreMatrix.read(path) for path in paths])
    with measured(torch.device("cpu")) as cost:
        fusion.fused_ranks(alignment, fusion.Rule("sum", (1.0, 1.0)), quiet=True)
    return cost.peak_extra_mib


def extra_mib_of_two_sizes(folder: Path) -> list[float | None]:
    """`extra_mib` of 1,000 and of 16,000 videos, in blocks of 1 MiB."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fusion, "BLOCK_BYTES", 2**20)
        extra_mib(folder, 1000)  # loads what the next two need
        return [extra_mib(folder, videos) for videos in (1000, 16_000)]


@pytest.mark.long
def test_memory_does_not_grow_with_the_matrices(tmp_path: Path) -> None:
    # A new process: what earlier tests freed in this one may or may not be used again, which moved the difference by 20 MiB.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        small, large = pool.submit(extra_mib_of_two_sizes, tmp_path).result()
    if small is None or large is None:
        pytest.skip("this system does not tell a process's peak memory")
    # The matrices differ by 57 MiB.
    assert large - small < 15


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weights": "1"}, r"--weights 1: 1 weights for 2 matrices: give one for each"),
        ({"weights": "1,x"}, r"--weights 1,x: write numbers separated by commas"),
        ({"weights": "1,inf"}, r"weights are finite numbers"),
        ({"weights": "0,0"}, r"weights are finite numbers, and not all of them 0"),
        ({"matrices": ()}, r"nothing to fuse: name matrices"),
        ({"method": "rrf", "normalize": "none"}, r"--normalize none is for --method sum"),
        ({"rrf_k": 10.0}, r"--rrf-k 10 is for --method rrf"),
        ({"weights": "1e308,1e308"}, r"the largest must be from 1e-100 to 1e\+100: scale them"),
        ({"weights": "0,1e-300"}, r"the largest must be from 1e-100 to 1e\+100: scale them"),
        ({"method": "rrf", "rrf_k": 1e18}, r"--rrf-k 1e\+18 must be a number of at least 0 and at most 1e\+09, beyond which ranks round"),
        ({"method": "rrf", "rrf_k": -1.0}, r"--rrf-k -1 must be a number of at least 0"),
        ({"matrices": (Path("run.trec"),)}, r"matrix run.trec: name it NAME.npy"),
        ({"matrices": (Path("nowhere.npy"),)}, r"nowhere.npy is not there: name a matrix that evaluate --save-scores wrote"),
    ],
)
def test_wrong_options_are_refused(evaluated: dict[str, Path], tmp_path: Path, given: dict[str, Any], message: str) -> None:
    options = FuseOptions(tuple(folder / "scores.npy" for folder in evaluated.values()), tmp_path / "out", quiet=True)
    with pytest.raises(UserError, match=message):
        fuse.main(replace(options, **given))
    assert not options.out.exists()


def test_matrices_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    ids, texts = ["v0", "v1"], ["a", "b"]
    eye = np.eye(2, dtype=np.float32)
    good = saved(tmp_path / "good.npy", eye, texts, ids, ids)
    nan = np.array([[1, np.nan], [0, 1]], dtype=np.float32)
    wrong = {
        r"lacks 1 video of .*good.npy, such as 'v1'": saved(tmp_path / "video.npy", eye[:1, :1], ["a"], ["v0"], ["v0"]),
        r"lacks 1 text of .*good.npy, such as 'b'": saved(tmp_path / "text.npy", eye, ["a", "c"], ids, ids),
        r"lacks 2 caption-video pairs of .*good.npy, such as 'a \(v0\)'": saved(tmp_path / "pairs.npy", eye, texts, ids[::-1], ids),
        r"is of split val, and .* of test: fuse scores of the same split": saved(tmp_path / "val.npy", eye, texts, ids, ids, split="val"),
        r"nan.npy: the score of text 0 and video v1 is nan: save the scores again": saved(tmp_path / "nan.npy", nan, texts, ids, ids),
        r"shape \[3, 2\], but the files beside it list 2 texts and 2 videos": saved(tmp_path / "rows.npy", np.eye(3, 2), texts, ids, ids),
        r"holds int64 of shape": saved(tmp_path / "type.npy", np.eye(2, dtype=np.int64), texts, ids, ids),
        r"in Fortran's order": saved(tmp_path / "order.npy", np.asfortranarray(np.arange(4.0).reshape(2, 2)), texts, ids, ids),
    }
    short = saved(tmp_path / "short.npy", eye, texts, ids, ids)
    short.write_bytes(short.read_bytes()[:-1])
    wrong[r"short.npy has 143 bytes, which its header contradicts"] = short
    text = saved(tmp_path / "text-file.npy", eye, texts, ids, ids)
    text.write_text("scores")
    wrong[r"text-file.npy is not in NumPy's format"] = text
    for kind, content in {"empty": "", "list": "[]", "other": '{"run": "other"}'}.items():
        path = saved(tmp_path / f"{kind}.npy", eye, texts, ids, ids)
        path.with_suffix(".json").write_text(content)
        wrong[rf"{kind}.json beside it is missing or damaged \(.*\): save the scores again with evaluate --save-scores, or write"] = path
    nameless = saved(tmp_path / "nameless.npy", eye, texts, ids, ids)
    pd.DataFrame({"caption": texts, "video_id": ["v0", None]}).to_parquet(nameless.with_suffix(".texts.parquet"))
    wrong[r"nameless.json beside it is missing or damaged \(a row lacks video_id\)"] = nameless
    for message, path in wrong.items():
        with pytest.raises(UserError, match=message) as found:
            fuse.main(FuseOptions((good, path), tmp_path / "out", quiet=True))
        assert "\n" not in str(found.value)
        assert not (tmp_path / "out" / "metrics.json").exists()
    fuse.main(FuseOptions((good, saved(tmp_path / "half.npy", eye.astype(np.float16), texts, ids, ids)), tmp_path / "out", quiet=True))
    assert re.search("sum of good, half", (tmp_path / "out" / "metrics.json").read_text())
