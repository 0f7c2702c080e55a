"""Figures by kind of caption, its words and the seconds of the video: from a table to metrics.json, the report and comparisons."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st

import evaluate
import extract
from data.base.errors import UserError
from data.metrics import DIRECTIONS, FIGURES
from evaluate import EvaluateOptions
from evaluate.breakdown.groups import MOST_KINDS, MOST_RANGES, groups_by, range_starts
from evaluate.breakdown.table import left_out_lines
from evaluate.breakdown.traits import traits_of_texts, traits_of_videos
from evaluate.compare import CompareOptions, main
from evaluate.compare.by import Part
from evaluate.compare.compared import Compared
from evaluate.ranks import RANKS_FILES
from evaluate.report.by_kind import draw_breakdown
from extract import ExtractOptions
from tests.conftest import DEMO_CLIP
from tests.videos import numbered_video
from train_head.run import METRICS_FILE

FRAMES = (4, 6, 8, 10, 14, 20, 26, 40)
"""Frames of each video, at 2 a second."""
HOSTILE = "<b>$x$ | 順序"
CAPTIONS = (
    {"a grey square": "one", "grey": "one"},
    {"a square that gets a little lighter": "several", "light": ""},
    {"first dark and then light and then dark again for a while": HOSTILE, "the light grows until the whole picture is white": HOSTILE},
    {"grey all over": "one", "darker than a light picture": "several"},
)
"""Captions and their kinds, of four videos in turn."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Evaluations of untrained heads on small videos, with and without kinds of captions."""
    folder = tmp_path_factory.mktemp("breakdown")
    for i, frames in enumerate(FRAMES):
        numbered_video(folder / "videos" / f"v{i}.mp4", frames, 2)
    options = ExtractOptions(dataset="table", videos=folder / "videos", cache=folder / "cache", model=DEMO_CLIP, device="cpu", quiet=True)
    rows = [(f"v{i}.mp4", f"{caption} {i}", kind, "test") for i in range(len(FRAMES)) for caption, kind in CAPTIONS[i % 4].items()]
    table = pd.DataFrame(rows, columns=["video", "caption", "kind", "split"])
    found = {}
    for name, columns in (("kinds", list(table)), ("plain", ["video", "caption", "split"])):
        path = folder / f"{name}.csv"
        table[columns].to_csv(path, index=False)
        extract.main(replace(options, annotations=path))
        for frames_read in (None, 1):
            out = folder / f"{name}-{frames_read}"
            asked = EvaluateOptions(folder / "cache", "zero-shot:mean", out, name=name, max_frames=frames_read, device="cpu", quiet=True)
            found[out.name] = evaluate.main(replace(asked, report=out.name == "kinds-None"))
    return found


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / METRICS_FILE).read_text())  # type: ignore[no-any-return]


def tables(folder: Path) -> list[pd.DataFrame]:
    return [pd.read_parquet(folder / name) for name in RANKS_FILES.values()]


def plain(rows: pd.DataFrame) -> dict[str, float]:
    """The metrics of some queries, one query after the other."""
    hits: dict[int, list[float]] = {1: [], 5: [], 10: []}
    for best, worst in zip(rows["best_rank"], rows["worst_rank"], strict=True):
        for k, found in hits.items():
            found.append(100 * sum(rank <= k for rank in range(best, worst + 1)) / (worst - best + 1))
    ordered = sorted(rows["rank"])
    median = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return {**{f"R@{k}": sum(found) / len(found) for k, found in hits.items()}, "MdR": median, "MnR": sum(ordered) / len(ordered)}


def test_ranks_say_what_each_query_is(results: dict[str, Path]) -> None:
    texts, videos = tables(results["kinds-None"])
    for row in texts.to_dict("records"):
        number = int(row["video_id"][1])
        caption = row["caption"].removesuffix(f" {number}")
        assert row["kind"] == CAPTIONS[number % 4][caption]
        assert row["words"] == len(caption.split(" ")) + 1
        # A video of 2 frames a second, sampled once a second.
        assert abs(row["seconds"] - FRAMES[number] / 2) < 1
    for row in videos.to_dict("records"):
        own = texts[texts["video_id"] == row["video_id"]]
        assert row["kind"] == (own["kind"].iloc[0] if len({*own["kind"]}) == 1 else "")
        assert row["words"] == sum(own["words"]) / len(own)
        assert row["seconds"] == own["seconds"].iloc[0]
    assert (tables(results["plain-None"])[0]["kind"] == "").all()
    # The length of a video does not depend on the frames that a head reads.
    assert tables(results["kinds-1"])[0]["seconds"].equals(texts["seconds"])


def ends(name: str) -> tuple[float, float]:
    """Of a range such as "1-7 words" or "4 s"."""
    first, _, last = name.partition(" ")[0].partition("-")
    return float(first), float(last or first)


def members(rows: pd.DataFrame, by: str, name: str) -> pd.DataFrame:
    """The queries of a group, by its name alone."""
    if by == "kind":
        return rows[rows["kind"] == name]
    first, last = ends(name)
    # A video's captions have a mean length.
    value = np.floor(rows[by]) if by == "words" else rows[by]
    return rows[(value >= first) & (value <= last)]


@pytest.mark.parametrize("by", ["kind", "words", "seconds"])
def test_figures_are_those_of_the_ranks(results: dict[str, Path], by: str) -> None:
    found = metrics(results["kinds-None"])["breakdown"][by]
    for direction, rows in zip(DIRECTIONS, tables(results["kinds-None"]), strict=True):
        counted = 0
        for group in found["groups"]:
            own = members(rows, by, group["name"])
            counted += len(own)
            if own.empty:
                assert group[direction] is None
                continue
            figures = dict(group[direction])
            intervals = figures.pop("intervals")
            assert figures == pytest.approx({"queries": len(own), **plain(own)})
            assert all(0 <= low <= figures[name] <= high <= 100 for name, (low, high) in intervals.items())
        assert counted + found["left_out"][direction] == len(rows)


def test_kinds_are_listed_by_frequency_and_what_is_left_out_is_counted(
    results: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = metrics(results["kinds-None"])["breakdown"]["kind"]
    assert [(group["name"], group["text_to_video"]["queries"]) for group in found["groups"]] == [("one", 6), (HOSTILE, 4), ("several", 4)]
    assert found["left_out"] == {"text_to_video": 2, "video_to_text": 4}
    assert found["groups"][2]["video_to_text"] is None
    assert list(metrics(results["plain-None"])["breakdown"]) == ["words", "seconds"]
    cache = results["kinds-None"].parent / "cache"
    printed = []
    for name in ("kinds", "plain"):
        asked = EvaluateOptions(
            cache, "zero-shot:mean", results["kinds-None"].parent / "again", name=name, device="cpu", quiet=True, report=False
        )
        evaluate.main(asked)
        printed.append(capsys.readouterr().out.splitlines())
    start = next(i for i, line in enumerate(printed[0]) if line.startswith("kind of caption"))
    figures = [f"{value:.1f}" for value in plain(members(tables(results["kinds-None"])[0], "kind", "one")).values()]
    assert printed[0][start + 1].split()[:7] == ["one", "6", *figures]
    assert printed[0][start + 4 :][:2] == [
        "in no group: 2 captions without a kind",
        "in no group: 4 videos whose captions do not share a kind",
    ]
    assert not any("kind" in line for line in printed[1])


def test_the_report_shows_the_groups(results: dict[str, Path]) -> None:
    page = BeautifulSoup((results["kinds-None"] / "report.html").read_text(), "html.parser")
    section = page.find("section", attrs={"aria-labelledby": "groups"})
    assert section is not None
    found = metrics(results["kinds-None"])["breakdown"]
    headers = [th.get_text() for th in section.select("tbody th")]
    assert headers == [group["name"] for by in ("kind", "words", "seconds") for group in found[by]["groups"]]
    cells = [td.get_text() for td in section.select("tbody tr")[0].select("td")]
    one = found["kind"]["groups"][0]["text_to_video"]
    low, high = one["intervals"]["R@1"]
    assert cells[:3] == ["6", f"{one['R@1']:.1f}{low:.1f}\N{EN DASH}{high:.1f}", f"{one['R@5']:.1f}"]
    assert len(section.select("figure svg")) == 3
    assert any(text.get_text() == HOSTILE for text in section.select("svg text"))
    assert (results["kinds-None"] / "plots" / "by-seconds.png").is_file()


def test_the_report_leaves_out_what_does_not_divide_the_queries(results: dict[str, Path], tmp_path: Path) -> None:
    found = metrics(results["plain-None"])["breakdown"]
    found["words"]["groups"] = found["words"]["groups"][:1]
    assert [section.name for section in draw_breakdown(tmp_path, found)] == ["seconds"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["by-seconds.png", "by-seconds.svg"]


def test_the_report_shows_a_single_kind_beside_captions_without_one(results: dict[str, Path], tmp_path: Path) -> None:
    found = metrics(results["kinds-None"])["breakdown"]
    found["kind"]["groups"] = [{**found["kind"]["groups"][0], "name": "\U0001f468\u200d\U0001f469", "video_to_text": None}]
    section = next(section for section in draw_breakdown(tmp_path, found) if section.name == "kind")
    assert section.notes
    # The joiner makes one emoji of two.
    assert [group["name"] for group in section.groups] == ["\U0001f468\u200d\U0001f469"]
    texts = [text.get_text() for text in BeautifulSoup(section.plot.svg, "html.parser").select("text")]
    assert "text to video" in texts
    assert "video to text" not in texts
    found["kind"]["left_out"] = {"text_to_video": 0, "video_to_text": 0}
    assert "kind" not in [section.name for section in draw_breakdown(tmp_path, found)]


@given(st.lists(st.integers(1, 40) | st.floats(0.1, 1e4).map(lambda value: round(value, 1)), min_size=1, max_size=60))
def test_every_query_is_in_exactly_one_range(values: list[float]) -> None:
    starts = range_starts(np.array(values, dtype=np.float64))
    assert len(starts) <= MOST_RANGES
    queries = pd.DataFrame({"seconds": values})
    groups = groups_by("seconds", queries, queries)
    assert groups is not None
    inside = np.array([group.members for group in groups.groups])
    assert (inside.sum(axis=0) == 1).all()
    assert inside.any(axis=2).all()
    assert len({group.name for group in groups.groups}) == len(groups.groups)
    # Each value alone tells its range, and ranges do not overlap.
    for group in groups.groups:
        first, last = ends(group.name)
        assert [bool(member) for member in group.members[0]] == [first <= value <= last for value in values]
    if len({*values}) == len(values) >= MOST_RANGES:
        sizes = [int(group.members[0].sum()) for group in groups.groups]
        assert max(sizes) - min(sizes) <= 1


@given(st.lists(st.integers(0, 12), min_size=1, max_size=20), st.data())
def test_a_mean_of_captions_is_in_the_range_that_names_it(words: list[int], data: st.DataObject) -> None:
    means = data.draw(st.lists(st.floats(min(words), max(words)), min_size=1, max_size=20))
    groups = groups_by("words", pd.DataFrame({"words": words}), pd.DataFrame({"words": means}))
    assert groups is not None
    for group in groups.groups:
        first, last = ends(group.name)
        assert group.members[1].tolist() == [first <= np.floor(mean) <= last for mean in means]
        assert group.members[0].tolist() == [first <= value <= last for value in words]


@given(st.lists(st.tuples(st.sampled_from([f"kind {i}" for i in range(30)] + [""]), st.integers(0, 9)), min_size=1, max_size=90))
def test_a_query_is_in_the_group_of_its_kind_or_left_out(texts: list[tuple[str, int]]) -> None:
    kinds = [kind for kind, _ in texts]
    answers = np.array([video for _, video in texts])
    of_texts = traits_of_texts(["x"] * len(texts), kinds, answers, np.ones(10))
    of_videos = traits_of_videos(of_texts, answers)
    groups = groups_by("kind", of_texts, of_videos)
    if not any(kinds):
        assert groups is None
        return
    assert groups is not None
    shown = [group.name for group in groups.groups]
    assert len(shown) == min(MOST_KINDS, len({*kinds} - {""})) == len({*kinds} - {""}) - groups.further_kinds
    left = [kinds.count(kind) for kind in {*kinds} - {"", *shown}]
    assert max(left, default=0) <= min(kinds.count(kind) for kind in shown)
    for group in groups.groups:
        assert group.members[0].tolist() == [kind == group.name for kind in kinds]
        videos = {video for video in answers if {kind for kind, own in texts if own == video} == {group.name}}
        assert {*of_videos.index[group.members[1]]} == videos
    assert groups.left_out[0] == sum(kind not in shown for kind in kinds)
    said = list(left_out_lines(dict(zip(DIRECTIONS, groups.left_out, strict=True)), groups.further_kinds))
    assert len(said) == sum(count > 0 for count in groups.left_out)
    assert all("less frequent kind" in line for line in said) == (groups.further_kinds > 0 or not said)


@pytest.mark.parametrize(
    ("left_out", "further", "said"),
    [
        ((1, 1), 0, ["in no group: 1 caption without a kind", "in no group: 1 video whose captions do not share a kind"]),
        ((2, 0), 1, ["in no group: 2 captions without a kind, or with one less frequent kind"]),
        ((0, 1200), 7, ["in no group: 1,200 videos whose captions do not share a kind, or with one of 7 less frequent kinds"]),
        ((0, 0), 0, []),
    ],
)
def test_what_is_in_no_group_in_words(left_out: tuple[int, int], further: int, said: list[str]) -> None:
    assert list(left_out_lines(dict(zip(DIRECTIONS, left_out, strict=True)), further)) == said


def test_the_title_of_a_group_counts_in_words() -> None:
    compared = Compared.of([], None, 0)
    assert Part("one", dict(zip(DIRECTIONS, (1, 1), strict=True)), compared).title("kind") == "kind one: 1 caption, 1 video"
    assert Part("3 s", dict(zip(DIRECTIONS, (1000, 0), strict=True)), compared).title("seconds") == "3 s: 1,000 captions, 0 videos"


def without(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
    """Rewrite the ranks of a result."""
    for name in RANKS_FILES.values():
        change(pd.read_parquet(folder / name)).to_parquet(folder / name, index=False)
    return folder


def part_of(folder: Path, out: Path, by: str, name: str) -> Path:
    """Results as if an evaluation had had the queries of a group alone."""
    shutil.copytree(folder, out)
    result, found = metrics(folder), []
    for file, rows in zip(RANKS_FILES.values(), tables(folder), strict=True):
        own = members(rows, by, name)
        own.to_parquet(out / file, index=False)
        found.append(plain(own))
    result |= {"queries": len(pd.read_parquet(out / RANKS_FILES["text_to_video"])), **dict(zip(DIRECTIONS, found, strict=True))}
    result["RSum"] = sum(of[f"R@{k}"] for of in found for k in (1, 5, 10))
    (out / METRICS_FILE).write_text(json.dumps(result))
    return out


def test_a_comparison_by_seconds_is_one_of_each_group(results: dict[str, Path], tmp_path: Path) -> None:
    base, other = results["kinds-None"], results["kinds-1"]
    record = main(CompareOptions((base, other), base=base, by="seconds", seed=3))
    assert record["rows"] == main(CompareOptions((base, other), base=base, seed=3))["rows"]
    assert [group["name"] for group in record["groups"]] == [group["name"] for group in metrics(base)["breakdown"]["seconds"]["groups"]]
    assert not any("RSum" in note for note in record["notes"])
    for i, group in enumerate(record["groups"]):
        alone = [part_of(folder, tmp_path / f"{i} {folder.name}", "seconds", group["name"]) for folder in (base, other)]
        expected = main(CompareOptions(tuple(alone), base=alone[0], seed=3))["rows"]
        assert group["queries"] == dict(zip(DIRECTIONS, map(len, tables(alone[0])), strict=True))
        for row, of_alone in zip(group["rows"], expected, strict=True):
            assert row["figures"].keys() == of_alone["figures"].keys()
            for name, figure in of_alone["figures"].items():
                assert row["figures"][name] == pytest.approx(figure)
            if of_alone["tests"] is not None:
                assert row["tests"]["mcnemar"] == of_alone["tests"]["mcnemar"]
                for name, test in of_alone["tests"]["figures"].items():
                    assert row["tests"]["figures"][name] == pytest.approx(test)


def test_a_comparison_by_kind_in_every_form(results: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, other = results["kinds-None"], results["kinds-1"]
    record = main(CompareOptions((base, other), base=base, by="kind", out=tmp_path / "out"))
    assert json.loads((tmp_path / "out/comparison.json").read_text()) == record
    several = record["groups"][2]
    assert several["queries"] == {"text_to_video": 4, "video_to_text": 0}
    # No video has that kind alone.
    figures = several["rows"][1]["figures"]
    assert [*figures] == [f"text_to_video {name}" for name in FIGURES]
    assert [*several["rows"][1]["tests"]["figures"]] == ["R@1", "R@5", "R@10"]
    ours, theirs = (plain(members(tables(folder)[0], "kind", "several")) for folder in (other, base))
    assert {name: figures[f"text_to_video {name}"]["mean"] for name in FIGURES} == pytest.approx(ours)
    assert several["rows"][1]["tests"]["figures"]["R@1"]["difference"] == pytest.approx(ours["R@1"] - theirs["R@1"])
    text = capsys.readouterr().out
    assert (tmp_path / "out/table.txt").read_text() == text
    for title in (
        "all queries",
        "kind one: 6 captions, 2 videos",
        f"kind {HOSTILE}: 4 captions, 2 videos",
        "kind several: 4 captions, 0 videos",
    ):
        assert f"\n\n{title}\n" in text
    assert "in no group: 2 captions without a kind" in text.splitlines()
    assert "RSum only where the captions of a group describe exactly its videos" in text.splitlines()
    assert len(text.split("McNemar, R@1")) == 5
    markdown = (tmp_path / "out/table.md").read_text()
    assert "\n\n### kind \\<b\\>\\$x\\$ \\| 順序: 4 captions, 2 videos\n\n" in markdown
    latex = (tmp_path / "out/table.tex").read_text()
    assert latex.count(r"\begin{tabular}") == 8
    assert r"kind \textless{}b\textgreater{}\$x\$ | 順序" in latex
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out/table.csv").read_text())))
    assert [(row["by"], row["group"]) for row in rows] == [
        (by, name) for by, name in (("", ""), ("kind", "one"), ("kind", HOSTILE), ("kind", "several")) for _ in range(2)
    ]
    assert rows[7]["RSum mean"] == ""
    assert float(rows[7]["text to video R@1 difference"]) == pytest.approx(ours["R@1"] - theirs["R@1"])


def test_seeds_and_kinds(results: dict[str, Path], tmp_path: Path) -> None:
    """Of several seeds, a group has the mean."""
    folders = []
    for seed, source in enumerate((results["kinds-None"], results["kinds-1"])):
        folders.append(shutil.copytree(source, tmp_path / f"seed{seed}"))
        result = metrics(source) | {"max_frames": None, "trained_with": {"version": 1, "options": {"head": "mean", "seed": seed}}}
        (folders[-1] / METRICS_FILE).write_text(json.dumps(result | {"trained": {"commit": "c0ffee"}}))
    record = main(CompareOptions(tuple(folders), by="kind"))
    assert [row["seeds"] for row in record["groups"][0]["rows"]] == [2]
    found = [plain(members(tables(folder)[1], "kind", "one"))["R@5"] for folder in folders]
    assert record["groups"][0]["rows"][0]["figures"]["video_to_text R@5"]["mean"] == pytest.approx(sum(found) / 2)


def test_results_of_earlier_versions(results: dict[str, Path], tmp_path: Path) -> None:
    base, other = results["kinds-None"], results["kinds-1"]
    old = [
        without(Path(shutil.copytree(folder, tmp_path / folder.name)), lambda rows: rows.drop(columns=["kind", "words", "seconds"]))
        for folder in (base, other)
    ]
    expected = main(CompareOptions((base, other), base=base, by="words"))
    assert main(CompareOptions(tuple(old), base=old[0]))["rows"][1]["tests"] == expected["rows"][1]["tests"]
    with pytest.raises(
        UserError, match=f"--by words: {old[0]} was written by an earlier version or a fusion.*: evaluate again with --out {old[0]}"
    ):
        main(CompareOptions(tuple(old), by="words"))
    # A result on the same queries says it for all.
    mixed = main(CompareOptions((old[0], other), base=old[0], by="words"))
    assert [group["rows"][1]["tests"] for group in mixed["groups"]] == [group["rows"][1]["tests"] for group in expected["groups"]]


def test_what_cannot_be_divided_is_refused(results: dict[str, Path], tmp_path: Path) -> None:
    plain_ones = results["plain-None"], results["plain-1"]
    with pytest.raises(UserError, match=r"--by kind: no caption of .*plain-None has a kind: add a column kind to the table of captions"):
        main(CompareOptions(plain_ones, by="kind"))
    shorter = without(Path(shutil.copytree(results["kinds-1"], tmp_path / "shorter")), lambda rows: rows.iloc[:-1])
    with pytest.raises(UserError, match=f"--by kind: {shorter} has other captions or videos than .*kinds-None: leave one of them out"):
        main(CompareOptions((results["kinds-None"], shorter), by="kind", allow_different=True))


@pytest.mark.parametrize("order", [("kinds-None", "plain-1"), ("plain-1", "kinds-None")])
def test_results_that_disagree_on_kinds_say_so(results: dict[str, Path], order: tuple[str, str]) -> None:
    """Those that were evaluated before the captions had kinds may come first, as the base does."""
    record = main(CompareOptions(tuple(results[name] for name in order), base=results[order[0]], by="kind"))
    assert [group["name"] for group in record["groups"]] == [
        group["name"] for group in metrics(results["kinds-None"])["breakdown"]["kind"]["groups"]
    ]
    assert f"kind of queries as in {results['kinds-None']}; {results['plain-1']} gives other values" in record["notes"]
    record = main(CompareOptions((*(results[name] for name in order), results["plain-None"]), by="kind"))
    others = ", ".join(str(results[name]) for name in (*order, "plain-None") if name != "kinds-None")
    assert f"kind of queries as in {results['kinds-None']}; {others} give other values" in record["notes"]


def test_tables_of_different_evaluations_are_refused(results: dict[str, Path], tmp_path: Path) -> None:
    mixed = Path(shutil.copytree(results["kinds-1"], tmp_path / "mixed"))
    name = RANKS_FILES["video_to_text"]
    pd.read_parquet(mixed / name).drop(columns=["kind", "words", "seconds"]).to_parquet(mixed / name, index=False)
    with pytest.raises(UserError, match=f"ranks in {mixed} are of different evaluations: evaluate again with --out {mixed}"):
        main(CompareOptions((mixed,), by="kind"))


def test_groups_say_that_they_credit_ties_by_expectation(
    results: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = "groups of queries credit ties by expectation, whatever the figures of all queries do"
    cache = results["kinds-None"].parent / "cache"
    for ties in ("expected", "reference"):
        asked = EvaluateOptions(cache, "zero-shot:mean", tmp_path / ties, name="kinds", ties=ties, report=False, device="cpu", quiet=True)
        evaluate.main(asked)
        assert (note in capsys.readouterr().out) == (ties == "reference")
        assert (note in main(CompareOptions((tmp_path / ties,), by="words"))["notes"]) == (ties == "reference")
        capsys.readouterr()
