"""Results side by side: means over seeds, paired tests against plain references, plots, and what is refused."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import evaluate
from data.base.errors import UserError
from data.metrics import RankCounter, Ranks
from evaluate import EvaluateOptions
from evaluate.compare import CompareOptions, main
from evaluate.compare.curves import match_curve
from evaluate.compare.results import Result, group_by_seed
from evaluate.compare.significance import RESAMPLES, mcnemar, two_sided
from evaluate.compare.table import Table, latex_text
from evaluate.ranks import RankTables
from train_head.run import METRICS_FILE

TEXTS, VIDEOS = 60, 30


@pytest.fixture(scope="module")
def evaluated(cache_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real results of untrained heads."""
    folders = {name: tmp_path_factory.mktemp("results") / name for name in ("mean", "glccl", "xclip")}
    for name, out in folders.items():
        evaluate.main(EvaluateOptions(cache=cache_path, run=f"zero-shot:{name}", out=out, device="cpu", report=False, quiet=True))
    return folders


def trained(folder: Path, like: Path, seed: int, noise: float = 1.0, **options: Any) -> Path:
    """Results as a training with these options and this seed would leave: two captions of each of some videos, and scores by the seed."""
    rng = np.random.default_rng([seed, int(1000 * noise)])
    answers = np.arange(TEXTS) % VIDEOS
    score_AB = rng.standard_normal((TEXTS, VIDEOS)) * noise
    score_AB[np.arange(TEXTS), answers] += 1.5
    counter = RankCounter(answers, VIDEOS)
    counter.update(torch.from_numpy(np.round(score_AB, 1)), torch.arange(TEXTS), torch.arange(VIDEOS))
    ranks = counter.ranks()
    captions = pd.DataFrame({"query": ranks[0].query_Q, "caption": [f"caption {a}" for a in range(TEXTS)]})
    captions["video_id"] = [f"video{b}" for b in answers]
    videos = pd.DataFrame({"query": ranks[1].query_Q, "video_id": [f"video{b}" for b in range(VIDEOS)]})
    frames = [
        frame.assign(rank=one.expected, best_rank=one.best_Q, worst_rank=one.worst_Q)
        for frame, one in zip((captions, videos), ranks, strict=True)
    ]
    folder.mkdir()
    RankTables(*frames).write(folder)
    result = json.loads((like / METRICS_FILE).read_text())
    training = {"head": "glccl", "csc_weight": 0.5, "epochs": 5, "seed": seed, "out": str(folder), **options}
    result |= {**counter.metrics(), "run": f"runs/{folder.name}", "queries": TEXTS, "gallery": VIDEOS}
    result |= {"trained_with": {"version": 1, "options": training}, "trained": {"commit": "c0ffee"}}
    result |= {"train_videos": 40, "selected_on": "val"}
    (folder / METRICS_FILE).write_text(json.dumps(result))
    return folder


@pytest.fixture
def seeds(evaluated: dict[str, Path], tmp_path: Path) -> list[Path]:
    """Three seeds of each of three weights of CSC."""
    return [
        trained(tmp_path / f"glccl-csc{weight}-seed{seed}", evaluated["glccl"], seed, noise=0.8 + weight, csc_weight=weight)
        for weight in (0.0, 0.5, 1.0)
        for seed in range(3)
    ]


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / METRICS_FILE).read_text())  # type: ignore[no-any-return]


def test_seeds_of_one_training_share_a_row(seeds: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    rows = main(CompareOptions(tuple(seeds)))["rows"]
    assert [row["run"] for row in rows] == [f"runs/glccl-csc{weight}-seed*" for weight in (0.0, 0.5, 1.0)]
    for row, members in zip(rows, (seeds[:3], seeds[3:6], seeds[6:]), strict=True):
        assert (row["seeds"], row["folders"]) == (3, list(map(str, members)))
        for name in ("R@1", "MdR"):
            values = [metrics(folder)["text_to_video"][name] for folder in members]
            mean = sum(values) / 3
            deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 2)
            assert row["figures"][f"text_to_video {name}"] == pytest.approx({"mean": mean, "std": deviation})
    figure = rows[0]["figures"]["RSum"]
    assert f"{figure['mean']:.1f} ± {figure['std']:.1f}" in capsys.readouterr().out.splitlines()[3]


def test_results_that_differ_in_more_than_the_seed_stay_apart(seeds: list[Path], evaluated: dict[str, Path], tmp_path: Path) -> None:
    again = trained(tmp_path / "again", evaluated["glccl"], 0, csc_weight=0.0)
    longer = trained(tmp_path / "longer", evaluated["glccl"], 1, csc_weight=0.0, epochs=9)
    groups = group_by_seed([Result.read(folder) for folder in (seeds[0], again, longer, seeds[4])])
    assert [len(group.results) for group in groups] == [1, 1, 1, 1]
    # Other runs of a name are told apart by what differs, the same by their folders.
    twins = group_by_seed([Result.read(seeds[0]), replace(Result.read(seeds[0]), folder=tmp_path / "copy")])
    assert [group.label for group in twins] == [f"runs/{seeds[0].name} ({folder})" for folder in (seeds[0], tmp_path / "copy")]
    other = Result.read(seeds[3])
    other.metrics["run"] = Result.read(seeds[0]).metrics["run"]
    alike = group_by_seed([Result.read(seeds[0]), other])
    assert [group.label for group in alike] == [f"runs/{seeds[0].name} (csc_weight {weight})" for weight in (0.0, 0.5)]


def plain_recall(ranks: Ranks, k: int, drawn: list[int]) -> float:
    hits = [max(0, min(k, ranks.worst_Q[q]) - ranks.best_Q[q] + 1) / (ranks.worst_Q[q] - ranks.best_Q[q] + 1) for q in drawn]
    return 100 * float(np.mean(hits))


def test_the_paired_bootstrap_draws_the_same_queries_for_both(seeds: list[Path]) -> None:
    one, base = seeds[0], seeds[3]
    row = main(CompareOptions((one, base), base=base, seed=3))["rows"][0]
    ours, theirs = (RankTables.read(folder).ranks() for folder in (one, base))
    rng = np.random.default_rng(3)
    drawn = rng.integers(TEXTS, size=(RESAMPLES, TEXTS))[:400].tolist()
    some = [plain_recall(ours[0], 5, queries) - plain_recall(theirs[0], 5, queries) for queries in drawn]
    found = row["tests"]["figures"]["R@5"]
    assert found["difference"] == pytest.approx(metrics(one)["text_to_video"]["R@5"] - metrics(base)["text_to_video"]["R@5"])
    spread = found["high"] - found["low"]
    assert [found["low"], found["high"]] == pytest.approx(np.quantile(some, [0.025, 0.975]), abs=0.2 * spread)
    assert found["low"] < found["difference"] < found["high"]
    assert row["tests"]["figures"]["RSum"]["difference"] == pytest.approx(metrics(one)["RSum"] - metrics(base)["RSum"])
    assert found["p"] == pytest.approx(2 * min(np.mean(np.array(some) <= 0), np.mean(np.array(some) >= 0)), abs=0.08)


def test_p_counts_draws_on_the_smaller_side() -> None:
    assert two_sided(np.array([1.0] * 97 + [0.0] + [-1.0])) == pytest.approx(2 * 3 / 100)
    assert two_sided(np.full(99, 2.0)) == pytest.approx(2 / 100)
    assert two_sided(np.zeros(99)) == 1.0


def test_no_difference_from_oneself(seeds: list[Path], tmp_path: Path) -> None:
    twin = replace(Result.read(seeds[0]), folder=tmp_path / "twin")
    assert mcnemar(twin, Result.read(seeds[0])).p == 1.0
    test = main(CompareOptions((seeds[3],), base=seeds[0]))["rows"][1]["tests"]
    assert test["figures"].keys() == {"R@1", "R@5", "R@10", "RSum"}


def test_mcnemar_is_the_exact_binomial(seeds: list[Path]) -> None:
    for one, base in ((seeds[0], seeds[8]), (seeds[2], seeds[3])):
        ours, theirs = (
            {row.query for row in pd.read_parquet(folder / "ranks-text-to-video.parquet").itertuples() if row.worst_rank == 1}
            for folder in (one, base)
        )
        gained, lost = len(ours - theirs), len(theirs - ours)
        count = gained + lost
        tail = sum(math.comb(count, i) for i in range(min(gained, lost) + 1)) / 2**count
        found = mcnemar(Result.read(one), Result.read(base))
        assert (found.gained, found.lost) == (gained, lost)
        assert found.p == pytest.approx(min(1.0, 2 * tail))


def test_tests_over_seeds_are_of_the_means(seeds: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    rows = main(CompareOptions(tuple(seeds[:6]), base=seeds[4]))["rows"]
    assert rows[1]["tests"] is None
    test = rows[0]["tests"]
    means = [np.mean([metrics(folder)["RSum"] for folder in some]) for some in (seeds[:3], seeds[3:6])]
    assert test["figures"]["RSum"]["difference"] == pytest.approx(means[0] - means[1])
    assert test["mcnemar"] is None
    assert capsys.readouterr().out.splitlines()[-1].startswith("differences from runs/glccl-csc0.5-seed*, in points")


def test_results_on_other_queries_are_refused_unless_allowed(
    seeds: list[Path], evaluated: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = (seeds[0], seeds[3], evaluated["mean"])
    with pytest.raises(UserError, match=r"not on the same queries \(queries: 60 or 24; gallery: 30 or 12\): .*--allow-different"):
        main(CompareOptions(folders))
    record = main(CompareOptions(folders, base=seeds[0], allow_different=True, out=tmp_path / "out"))
    assert record["different"] == ["queries: 60 or 24", "gallery: 30 or 12"]
    assert [row["tests"] is None for row in record["rows"]] == [True, False, True]
    said = capsys.readouterr().out
    assert "NOT THE SAME queries: 60 or 24" in said
    for name in ("table.md", "table.tex", "table.txt"):
        assert "NOT THE SAME gallery: 30 or 12" in (tmp_path / "out" / name).read_text()
    assert set(pd.read_csv(tmp_path / "out" / "table.csv")["not the same"]) == {"queries: 60 or 24; gallery: 30 or 12"}


@pytest.mark.parametrize("name", ["ties", "preset", "split", "counts"])
def test_other_rules_and_splits_are_refused(seeds: list[Path], name: str) -> None:
    path = seeds[1] / METRICS_FILE
    path.write_text(json.dumps(metrics(seeds[1]) | {name: {"videos_scored": 1} if name == "counts" else "other"}))
    with pytest.raises(UserError, match=f"{name}: "):
        main(CompareOptions((seeds[0], seeds[1])))


def test_other_captions_of_the_same_number_are_refused(seeds: list[Path]) -> None:
    path = seeds[1] / "ranks-text-to-video.parquet"
    table = pd.read_parquet(path)
    table.loc[7, "caption"] = "another"
    table.to_parquet(path, index=False)
    with pytest.raises(UserError, match="has other captions or videos than"):
        main(CompareOptions((seeds[0], seeds[1])))


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"run": "x"}'])
def test_damaged_results_are_refused(seeds: list[Path], damage: str) -> None:
    (seeds[0] / METRICS_FILE).write_text(damage)
    with pytest.raises(UserError, match="evaluate again"):
        main(CompareOptions((seeds[0],)))
    (seeds[0] / METRICS_FILE).unlink()
    with pytest.raises(UserError, match="holds no metrics"):
        main(CompareOptions((seeds[0],)))


def test_the_curve_counts_answers_within_the_first_k() -> None:
    ranks = Ranks(np.arange(4), np.array([1, 2, 2, 5]), np.array([1, 2, 4, 6]))
    places = [[1], [2], [2, 3, 4], [5, 6]]
    expected: NDArray[np.float64] = np.array(
        [100 * np.mean([np.mean([place <= k for place in some]) for some in places]) for k in range(1, 8)]
    )
    np.testing.assert_allclose(match_curve(ranks, 7), expected)
    assert [match_curve(ranks, 7)[k - 1] for k in (1, 5)] == pytest.approx([100 * ranks.recall(k).mean() for k in (1, 5)])


@pytest.mark.long
def test_all_files_and_the_same_bytes_again(seeds: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = CompareOptions(tuple(seeds), base=seeds[0], sweep="csc_weight", out=out)
    record = main(options)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    plots = [f"{name}.{kind}" for name in ("cmc", "sweep-csc_weight") for kind in ("png", "svg")]
    assert sorted(before) == sorted([*plots, "comparison.json", "options.yaml", "table.csv", "table.md", "table.tex", "table.txt"])
    assert json.loads(before["comparison.json"]) == record
    for name in plots:
        if name.endswith("svg"):
            assert ElementTree.fromstring(before[name]).tag.endswith("svg")
            assert b"<dc:date>" not in before[name]
        else:
            with Image.open(out / name) as picture:
                assert min(picture.size) > 300
    main(options)
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}
    # Plots that are not drawn any more do not stay.
    main(replace(options, sweep=None))
    assert not list(out.glob("sweep-*"))


def test_other_forms_of_the_table(seeds: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    options = CompareOptions(tuple(seeds), base=seeds[0])
    record = main(replace(options, json=True))
    assert json.loads(capsys.readouterr().out) == record
    main(replace(options, format="csv", json=False))
    said = capsys.readouterr().out
    table = pd.read_csv(io.StringIO(said))
    assert table["RSum mean"].tolist() == pytest.approx([row["figures"]["RSum"]["mean"] for row in record["rows"]])
    assert table["RSum p"].tolist()[1:] == [row["tests"]["figures"]["RSum"]["p"] for row in record["rows"][1:]]
    main(replace(options, format="markdown"))
    lines = capsys.readouterr().out.splitlines()
    assert {line.count(" | ") for line in lines[:5]} == {15}
    main(replace(options, format="latex"))
    said = capsys.readouterr().out
    assert r"runs/glccl-csc0.5-seed* & 3 & test" in said
    assert r" $\pm$ " in said
    assert r"95\% interval" in said


def test_characters_that_are_commands_are_escaped() -> None:
    assert latex_text(r"50% & a_b #1 $x$ {y} ~^ \n < ±") == (
        r"50\% \& a\_b \#1 \$x\$ \{y\} \textasciitilde{}\textasciicircum{} \textbackslash{}n \textless{} $\pm$"
    )
    table = Table([("", "run"), ("text & video", "R@1")], [["a_b|<c>", "1.0 ± 0.2"]])
    assert table.latex().splitlines()[2:6] == [
        r" & \multicolumn{1}{c}{text \& video} \\",
        r"run & R@1 \\",
        r"\midrule",
        r"a\_b|\textless{}c\textgreater{} & 1.0 $\pm$ 0.2 \\",
    ]
    assert table.markdown().splitlines()[2] == r"| a_b\|&lt;c> | 1.0 ± 0.2 |"
    assert table.text().splitlines() == ["         text & video", "run               R@1", "a_b|<c>     1.0 ± 0.2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sweep": "nothing"}, "--sweep nothing is not a training option that affects the result: use one of .*csc_weight"),
        ({"sweep": "quiet"}, "--sweep quiet is not a training option"),
        ({"results": ()}, "name at least one folder"),
        ({"base": Path("no/such")}, "there is no folder no/such"),
    ],
)
def test_what_cannot_be_compared_is_refused(seeds: list[Path], tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(replace(CompareOptions(tuple(seeds), out=tmp_path / "out"), **change))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("chosen", "change", "why"),
    [
        (slice(3), {}, "all trained runs have csc_weight 0.0, and a plot needs two values"),
        (slice(0), {}, "none of these runs was trained with csc_weight"),
        (slice(9), {"out": None}, "no folder is named: add --out"),
    ],
)
def test_the_table_is_there_where_a_plot_is_not_and_why_is_said(
    seeds: list[Path],
    evaluated: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    chosen: slice,
    change: dict[str, Any],
    why: str,
) -> None:
    """Such as the example of the README, on what the commands before it leave: one trained run, and one that is not trained."""
    results = tuple(seeds[chosen]) or (evaluated["mean"], evaluated["glccl"])
    given = CompareOptions(results, base=results[0], sweep="csc-weight", out=tmp_path / "out")
    main(replace(given, **change))
    with_sweep = capsys.readouterr()
    assert with_sweep.err == f"--sweep csc-weight: no plot, because {why}\n"
    main(replace(given, **change, sweep=None))
    assert capsys.readouterr().out == with_sweep.out
    if not change:
        assert (tmp_path / "out" / "table.txt").read_text() == with_sweep.out


def test_runs_of_a_sweep_are_told_apart_by_their_settings(evaluated: dict[str, Path], tmp_path: Path) -> None:
    """Not by the digests in their names, where there is one seed of each; and by their folders where nothing differs."""
    named = {0.0: "glccl-seed0-0123456789ab", 0.5: "glccl-seed0-ba9876543210"}
    results = [trained(tmp_path / name, evaluated["glccl"], 0, csc_weight=weight) for weight, name in named.items()]
    record = main(CompareOptions(tuple(results)))
    assert [row["run"] for row in record["rows"]] == ["runs/glccl-seed0 (csc_weight 0.0)", "runs/glccl-seed0 (csc_weight 0.5)"]
    again = trained(tmp_path / "glccl-seed0-000000000000", evaluated["glccl"], 0, csc_weight=0.5)
    record = main(CompareOptions((results[1], again)))
    assert [row["run"] for row in record["rows"]] == [f"runs/glccl-seed0 ({folder})" for folder in (results[1], again)]


def test_a_sweep_is_in_the_order_of_its_values(seeds: list[Path], evaluated: dict[str, Path], tmp_path: Path) -> None:
    mixed = (seeds[8], seeds[0], seeds[4], seeds[7], seeds[1])
    record = main(CompareOptions(mixed, sweep="csc_weight", out=tmp_path / "out"))
    assert [Path(row["folders"][0]).name.split("-")[1] for row in record["rows"]] == ["csc0.0", "csc0.5", "csc1.0"]


def test_results_are_found_in_folders_of_runs(
    seeds: list[Path], evaluated: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the folder of a sweep, in those of its runs, and where a shell put in all that is in it; each once."""
    runs = tmp_path / "runs"
    for i, folder in enumerate(seeds[:4]):
        (runs / f"run{i}").mkdir(parents=True)
        (runs / f"run{i}" / "run.json").touch()
        folder.rename(runs / f"run{i}" / "results")
    (runs / "runs.csv").touch()
    inside = sorted(runs.glob("*/results"))
    expected = main(CompareOptions(tuple(inside)))
    main(CompareOptions(tuple(inside), out=runs / "summary"))
    capsys.readouterr()
    for given in ((runs,), tuple(sorted(runs.iterdir())), (runs / "run2", runs), (runs, *inside)):
        found = main(CompareOptions(given))
        assert {folder for row in found["rows"] for folder in row["folders"]} == set(map(str, inside))
    assert main(CompareOptions((runs,))) == expected
    assert not capsys.readouterr().err
    with_base = main(CompareOptions((runs,), base=runs / "run3"))
    assert with_base["base"] == next(row["run"] for row in expected["rows"] if row["folders"] == [str(runs / "run3" / "results")])
    with pytest.raises(UserError, match=r"--base .*runs holds several results: name one of them, such as .*run0/results"):
        main(CompareOptions((runs,), base=runs))
    (runs / "run3" / "results").rename(tmp_path / "elsewhere")
    assert len(main(CompareOptions((runs,)))["rows"][0]["folders"]) == 3
    assert f"left out runs without results: 1, such as {runs / 'run3'}" in capsys.readouterr().err
    for given, line in (
        ((runs / "run3",), "run3 is a run without results: write them with python -m evaluate --cache CACHE --run"),
        (tuple(sorted(runs.iterdir())), "run3 is a run without results"),
        ((runs / "summary",), r"summary holds no metrics\.json"),
        ((runs / "runs.csv",), r"runs\.csv is a file: name the folder"),
        ((runs / "none",), "there is no folder .*none"),
    ):
        with pytest.raises(UserError, match=line):
            main(CompareOptions(given))
    for i in range(3):
        (runs / f"run{i}" / "results").rename(tmp_path / f"elsewhere{i}")
    with pytest.raises(UserError, match="runs holds runs without results: sweep again with --evaluate"):
        main(CompareOptions((runs,)))


def test_other_files_are_left_alone(seeds: list[Path]) -> None:
    before = sorted(path.name for path in seeds[0].iterdir())
    with pytest.raises(UserError, match="holds other files"):
        main(CompareOptions(tuple(seeds), out=seeds[0]))
    assert sorted(path.name for path in seeds[0].iterdir()) == before


def test_files_beside_a_table_stay_and_a_folder_in_place_of_one_costs_nothing(seeds: list[Path], tmp_path: Path) -> None:
    """Of names much like those that a comparison writes."""
    out = tmp_path / "summary"
    main(CompareOptions(tuple(seeds), out=out))
    for name in ("table.xlsx", "table.old.csv"):
        (out / name).write_text("mine")
    main(CompareOptions(tuple(seeds), out=out))
    assert [(out / name).read_text() for name in ("table.xlsx", "table.old.csv")] == ["mine", "mine"]
    (out / "table.tex").unlink()
    (out / "table.tex").mkdir()
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(UserError, match=r"table\.tex is a folder, but a result file needs this name: move it away"):
        main(CompareOptions(tuple(seeds), out=out))
    assert {path: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_a_base_alone_is_tested_against_nothing(evaluated: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    record = main(CompareOptions((evaluated["mean"],), base=evaluated["mean"]))
    assert [row["tests"] for row in record["rows"]] == [None]
    assert capsys.readouterr().out.splitlines()[-1].startswith("differences from zero-shot:mean")


def test_real_results_with_a_base(evaluated: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """The base need not be among the results."""
    rows = main(CompareOptions((evaluated["glccl"], evaluated["xclip"]), base=evaluated["mean"]))["rows"]
    assert [row["run"] for row in rows] == ["zero-shot:mean", "zero-shot:glccl", "zero-shot:xclip"]
    assert rows[0]["tests"] is None
    assert rows[1]["tests"]["mcnemar"]["gained"] > 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "demo test: scored 12 of 12 videos expected (12 present, 12 decoded) and 24 of 24 captions"
    assert len(lines) == 1 + 5 + 1 + 4 + 1 + 1
