"""What a reader of the report asks next: rows beside the run's, its training, its queries, their files, and the variance ratio."""

import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup, Tag
from hypothesis import example, given
from hypothesis import strategies as st

import evaluate
import extract
import train_head
from data.base.links import address
from data.cache import FeatureCache
from data.compute.processes import ProcessGroup
from data.datasets.kinds import MAX_KIND
from data.metrics import Ranks
from evaluate import EvaluateOptions
from evaluate.bootstrap import RESAMPLES, limits, resample
from evaluate.inputs import EvaluationInputs, load
from evaluate.ranks import RankTables
from evaluate.report import zero_shot
from evaluate.report.collect import Collected
from evaluate.report.links import find_links
from evaluate.report.queries import query_table
from evaluate.report.training import TrainingLog, read_log
from evaluate.report.variance import ratio_in_words
from evaluate.report.zero_shot import plan_rows
from extract import ExtractOptions
from tests.browser import OpenPage
from tests.videos import numbered_video
from train_head import TrainOptions
from train_head.heads import make_head
from train_head.scoring.splits import load_split
from train_head.scoring.top import Best

HOSTILE = "</script><img src=x onerror=\"document.title = 'taken'\">"
NAMES = ("a dog #1, 100%25?.mp4", "b'\"><b>&amp;.mp4", "über/c+d;e=f.mp4", "plain.mp4")
"""Files of the test videos."""


@dataclass(frozen=True)
class Study:
    """A trained run on a small data set of hostile names, its results with a report, and those of untrained heads without one."""

    videos: Path
    cache: Path
    run: Path
    out: Path
    beside: dict[str, Path]
    table: pd.DataFrame
    soup: BeautifulSoup


@pytest.fixture(scope="module")
def study(cache_path: Path, demo_set: Path, extract_options: ExtractOptions, tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("reader")
    captions = FeatureCache(cache_path).table()
    rows = []
    for split, names in (("train", ["t0.mp4", "t1.mp4", "t2.mp4"]), ("val", ["v0.mp4", "v1.mp4"]), ("test", NAMES)):
        own = captions[captions["split"] == split].groupby("video_id", sort=False)["caption"].agg(list)
        for i, (name, (video_id, said)) in enumerate(zip(names, own.items(), strict=False)):
            path = folder / "videos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(demo_set / "videos" / f"{video_id}.mp4", path)
            # The first test video has five captions, so that some of them are only counted.
            more = [HOSTILE, "a ring", "a star, twice", "one more", "and the last"] if split == "test" and i == 0 else []
            rows += [{"video": name, "caption": caption, "split": split, "kind": ("", "one <i>")[i % 2]} for caption in [*more, *said[:2]]]
    table = pd.DataFrame(rows).drop_duplicates(["video", "caption"])
    table.to_csv(folder / "table.csv", index=False)
    cache = extract.main(
        replace(extract_options, dataset="table", videos=folder / "videos", annotations=folder / "table.csv", cache=folder / "cache")
    )
    run = train_head.main(TrainOptions(cache, folder / "run", head="glccl", epochs=2, batch_size=3, device="cpu", quiet=True))
    beside = {
        name: evaluate.main(EvaluateOptions(cache, name, folder / name[10:], report=False, device="cpu", quiet=True))
        for name in ("zero-shot:glccl", "zero-shot:mean")
    }
    options = EvaluateOptions(cache, str(run), folder / "results" / "glccl", device="cpu", quiet=True, save_scores=folder / "scores.npy")
    out = evaluate.main(options)
    test = table[table["split"] == "test"].reset_index(drop=True)
    return Study(folder / "videos", cache, run, out, beside, test, parsed(out))


def parsed(out: Path) -> BeautifulSoup:
    return BeautifulSoup((out / "report.html").read_text(encoding="utf-8"), "html.parser")


def text_of(tag: Tag | BeautifulSoup) -> str:
    return " ".join(tag.get_text(" ").split())


def inputs_of(study: Study, run: str, **changes: Any) -> tuple[EvaluateOptions, EvaluationInputs]:
    options = EvaluateOptions(study.cache, run, study.out, device="cpu", quiet=True)
    inputs = load(options, ProcessGroup())
    return options, replace(inputs, evaluated=replace(inputs.evaluated, **changes))


def test_untrained_heads_stand_beside_the_run(study: Study) -> None:
    """The figures are those of evaluations of their own; the interval is that of the paired resamples."""
    rows = study.soup.select("#results ~ .scroll table")[0].select("tbody tr")
    names = [row.select_one("th bdi") for row in rows]
    assert [tag.get_text() for tag in names if tag] == [str(study.run), *study.beside]
    ours = json.loads((study.out / "metrics.json").read_text())
    tables = RankTables.read(study.out)
    drawn = resample(tables.ranks(), tables.owners(), RESAMPLES, seed=0)
    for place, out in enumerate(study.beside.values()):
        theirs = json.loads((out / "metrics.json").read_text())
        other = resample(RankTables.read(out).ranks(), tables.owners(), RESAMPLES, seed=0)
        figures, differences = (row.select("td") for row in rows[1 + 2 * place : 3 + 2 * place])
        keys = [(direction, name) for direction in ("text_to_video", "video_to_text") for name in ("R@1", "R@5", "R@10")] + [("", "RSum")]
        for key, figure, difference in zip(keys, figures, differences, strict=True):
            here, there, ours_N, theirs_N = ((of[key[0]] if key[0] else of)[key[1]] for of in (ours, theirs, drawn, other))
            assert float(figure.get_text()) == pytest.approx(there, abs=0.051)
            shown = [float(number) for number in re.findall(r"[-+]?[\d.]+", difference.get_text(" "))]
            assert shown == pytest.approx([here - there, *limits(ours_N - theirs_N)], abs=0.051)


def test_no_row_is_there_twice_or_costs_more_than_the_run(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    options, inputs = inputs_of(study, "zero-shot:mean")
    assert [row.run for row in plan_rows(options, inputs, ProcessGroup()).rows] == ["zero-shot:glccl"]
    assert plan_rows(replace(options, report=False), inputs, ProcessGroup()) == zero_shot.ZeroShotPlan()
    monkeypatch.setattr(zero_shot, "CHEAP_FLOPS", 0)
    plan = plan_rows(options, inputs, ProcessGroup())
    assert not plan.rows
    assert re.fullmatch(r"zero-shot:glccl takes [\d.]+ MFLOP, more than the run itself: .* --run zero-shot:glccl", plan.left_out[0])


def test_a_row_has_the_temperatures_of_the_run(study: Study) -> None:
    options, inputs = inputs_of(study, "zero-shot:glim-global")
    warm = make_head("glim-global", inputs.evaluated.head.config.at_temperatures({"tau": 0.5}))
    _, inputs = inputs_of(study, "zero-shot:glim-global", head=warm)
    found = {row.run: row.head.temperatures() for row in plan_rows(options, inputs, ProcessGroup()).rows}
    assert found == {"zero-shot:mean": {}, "zero-shot:glccl": {"tau": 0.5, "kappa": 0.01}}


def test_a_row_that_would_mislead_is_left_out_with_the_reason(study: Study) -> None:
    config = inputs_of(study, str(study.run))[1].evaluated.head.config
    options, inputs = inputs_of(study, str(study.run), head=make_head("xpool", config))
    plan = plan_rows(options, inputs, ProcessGroup())
    assert [row.run for row in plan.rows] == ["zero-shot:mean", "zero-shot:glccl"]
    assert plan.left_out == ["xpool starts at random and scores nothing before training, so there is no row of it untrained"]
    options, inputs = inputs_of(study, str(study.run), record={"finetuned_from": "digest"})
    plan = plan_rows(options, inputs, ProcessGroup())
    assert not plan.rows
    assert "features of the trained CLIP" in plan.left_out[0]


def test_the_training_curve_is_that_of_the_log(study: Study) -> None:
    log, record = pd.read_csv(study.run / "log.csv"), json.loads((study.run / "run.json").read_text())
    figure = study.soup.select_one("#training ~ figure")
    assert isinstance(figure, Tag)
    assert figure.select_one("svg") is not None
    plot = figure.select_one(".plot")
    assert isinstance(plot, Tag)
    described = str(plot["aria-label"])
    assert f"marks epoch {record['best_epoch']}, which was kept" in described
    for _, row in log.iterrows():
        assert f"RSum {row['RSum']:.1f}" in described.split(f"epoch {row['epoch']:.0f}: ")[1]
        if row["epoch"]:
            for loss in ("loss", "contrastive", "csc"):
                assert f"{loss} {row[loss]:.3f}" in described.split(f"epoch {row['epoch']:.0f}: ")[1]
    assert (study.out / "plots" / "training.png").stat().st_size > 1000


def test_without_a_log_the_report_says_why_there_is_no_curve(study: Study, tmp_path: Path) -> None:
    record = json.loads((study.run / "run.json").read_text())
    assert read_log("zero-shot:mean", {}) == "This head was not trained, so there is no training curve."
    assert read_log(str(tmp_path), record) == f"There is no training curve, because {tmp_path / 'log.csv'} is not there."
    (tmp_path / "log.csv").write_bytes((study.run / "log.csv").read_bytes()[:40])
    assert "cannot be read" in str(read_log(str(tmp_path), record))
    (tmp_path / "log.csv").write_bytes((study.run / "log.csv").read_bytes())
    assert "does not have the losses of epoch 7" in str(read_log(str(tmp_path), record | {"best_epoch": 7}))
    assert "does not have the losses of epoch 0" in str(read_log(str(tmp_path), record | {"best_epoch": 0}))


def whole_log() -> pd.DataFrame:
    losses = {"loss": [None, 2.0, 1.0], "contrastive": [None, 2.0, 1.0], "csc": [None, 0.5, 0.4]}
    return pd.DataFrame(
        {"epoch": [0, 1, 2], **losses, "text_to_video R@1": [1.0, 2.0, 3.0], "RSum": [9.0, 8.0, 7.0], "seconds": [0.0, 1.0, 1.0]}
    )


@pytest.mark.parametrize(
    ("row", "column", "value"),
    [
        (1, "loss", np.nan),
        (2, "csc", np.inf),
        (2, "seconds", np.nan),
        (0, "RSum", np.nan),
        (1, "text_to_video R@1", np.nan),
        (1, "epoch", 5),
    ],
)
def test_a_damaged_log_is_not_drawn(tmp_path: Path, row: int, column: str, value: float) -> None:
    log, record = whole_log(), {"best_epoch": 2, "selected_on": "val"}
    log.to_csv(tmp_path / "log.csv", index=False)
    assert isinstance(read_log(str(tmp_path), record), TrainingLog)
    log.loc[row, column] = value
    log.to_csv(tmp_path / "log.csv", index=False)
    path = tmp_path / "log.csv"
    assert read_log(str(tmp_path), record) == f"There is no training curve, because {path} is damaged: numbers or epochs are missing."


def test_wrongly_found_videos_show_captions_of_their_own(study: Study) -> None:
    checked = set()
    for card in study.soup.select("details.card"):
        for shown, name in [(shown, shown.select_one("bdi")) for shown in card.select(".own")]:
            assert name is not None
            own = study.table.loc[study.table["video"] == name.get_text(), "caption"]
            assert [quote.get_text() for quote in shown.select("q")] == list(own[:3])
            assert (f" and {len(own) - 3} more" in shown.get_text()) == (len(own) > 3)
            checked.add(len(own) > 3)
        if str(card["data-card"]).startswith("text"):
            entries = card.select("li.entry")
            assert [entry.select_one(".own") is None for entry in entries] == ["answer" in entry["class"] for entry in entries]
        else:
            assert len(card.select(".asking .own")) == 1
    assert checked == {True, False}


def test_the_table_of_queries_has_every_caption(study: Study) -> None:
    ranks, before = (RankTables.read(out).text_to_video for out in (study.out, study.beside["zero-shot:glccl"]))
    score_AB, ids = np.load(study.out.parent.parent / "scores.npy"), list(RankTables.read(study.out).video_to_text["video_id"])
    rows = study.soup.select("#query-table tbody tr")
    assert len(rows) == len(ranks) == len(study.table)
    for a, row in enumerate(rows):
        cells = [text_of(cell) for cell in row.select("td")]
        caption, video_id, rank = ranks.loc[a, ["caption", "video_id", "rank"]]
        head = row.select_one("th bdi")
        assert head is not None
        assert head.get_text() == caption
        assert float(cells[0]) == float(str(row["data-rank"])) == rank
        assert float(cells[1]) == float(str(row["data-gain"])) == before["rank"].to_numpy()[a] - rank
        assert cells[2] == row["data-kind"] == study.table.loc[a, "kind"]
        assert cells[3] == video_id
        first = ids[int(score_AB[a].argmax())]
        assert cells[4].startswith(f"{first} :") if first != video_id else cells[4] == ""
        assert row["data-outcome"] == ("first" if rank == 1 else "ten" if rank <= 10 else "missed")
        assert int(str(row["data-length"])) == len(caption)
    assert f"All {len(rows)} captions of the split" in text_of(study.soup)


def test_of_many_queries_the_table_has_those_with_cards_and_a_draw(study: Study) -> None:
    split = inputs_of(study, "zero-shot:mean")[1].evaluated.split
    texts = len(split.answers)
    best_A = np.resize([1, 1, 10, 10, 11], texts)
    ranks = Ranks(np.arange(texts), best_A, best_A + np.resize([0, 1, 0, 1, 0], texts))
    score_SAK = np.zeros((1, texts, 1), dtype=np.float32)
    best = Best(np.zeros((texts, 1), dtype=np.int64), score_SAK[0], score_SAK)
    collected = Collected(best, best, score_SAK[..., 0], score_SAK[..., 0], 0.0)
    table = query_table(split, ranks, None, collected, {1, 4}, 0, most=4)
    assert len(table.rows) == 4
    assert table.queries == texts
    numbers = [row.text for row in table.rows]
    assert numbers == sorted(numbers)
    assert {1, 4} < {*numbers}
    assert all(row.gain == 0 and row.before is None for row in table.rows)
    every = query_table(split, ranks, None, collected, {1, 4}, 0)
    assert split.kinds is not None
    assert every.some_without_kind
    for kinds in (None, tuple(kind or "another" for kind in split.kinds)):
        assert not query_table(replace(split, kinds=kinds), ranks, None, collected, set(), 0).some_without_kind
    assert [row.outcome for row in every.rows][:5] == ["first", "ten", "ten", "missed", "missed"]


def test_links_lead_to_the_file_and_the_moment(study: Study) -> None:
    links = study.soup.select("a[href]:not([href^='#'])")
    files = {name: study.videos / name for name in NAMES}
    for link in links:
        parts = urlsplit(str(link["href"]))
        assert (parts.scheme, parts.netloc, parts.query) == ("", "", "")
        path = (study.out / unquote(parts.path)).resolve()
        assert path in files.values()
        group = link.find_parent(class_="times")
        if group is None:
            assert path == files[link.get_text()]
        else:
            assert path == files[str(group["aria-label"]).removeprefix("Moments of ")]
            assert parts.fragment == f"t={link.get_text().removesuffix(' s')}"
    assert {link.get_text() for link in links} > files.keys()
    assert study.soup.select(".times a")
    assert "not linked" not in text_of(study.soup)


def test_the_link_of_a_segment_opens_that_part_of_its_file(extract_options: ExtractOptions, tmp_path: Path) -> None:
    numbered_video(tmp_path / "videos" / "talk #1.mp4", 24, 2)
    rows = [("whole", "", ""), ("later", 2.5, ""), ("early", "", 4), ("middle", 3, 5.25), ("zero", 0, "")]
    table = pd.DataFrame([("talk #1.mp4", f"caption {row[0]}", "test", *row) for row in rows])
    table.to_csv(tmp_path / "t.csv", header=["video", "caption", "split", "video_id", "start", "end"], index=False)
    options = replace(
        extract_options, dataset="table", videos=tmp_path / "videos", annotations=tmp_path / "t.csv", cache=tmp_path / "cache"
    )
    cache = FeatureCache(extract.main(options))
    split = load_split(cache, "test", None, 10**9)
    links = find_links(cache, split, tmp_path / "out" / "report.html", split.videos.ids)
    assert {video_id: links.whole(video_id) for video_id in split.videos.ids} == {
        "whole": "../videos/talk%20%231.mp4",
        "later": "../videos/talk%20%231.mp4#t=2.5",
        "early": "../videos/talk%20%231.mp4#t=0,4",
        "middle": "../videos/talk%20%231.mp4#t=3,5.25",
        "zero": "../videos/talk%20%231.mp4",
    }
    out = evaluate.main(EvaluateOptions(cache.path, "zero-shot:mean", tmp_path / "out", device="cpu", quiet=True))
    assert {link["href"] for link in parsed(out).select("a") if link.get_text() == "middle"} == {"../videos/talk%20%231.mp4#t=3,5.25"}


def test_a_video_that_is_gone_is_named_once_and_not_linked(study: Study, tmp_path: Path) -> None:
    (study.videos / NAMES[0]).rename(tmp_path / "moved.mp4")
    try:
        out = evaluate.main(EvaluateOptions(study.cache, "zero-shot:mean", tmp_path / "out", device="cpu", quiet=True))
    finally:
        (tmp_path / "moved.mp4").rename(study.videos / NAMES[0])
    soup = parsed(out)
    assert text_of(soup).count("1 of the 4 videos on this page are not linked") == 1
    assert "run extract again with their folder as --videos, and evaluate again" in text_of(soup)
    assert {link.get_text() for link in soup.select(".who a")} == {*NAMES[1:]}
    assert "This head was not trained, so there is no training curve." in text_of(soup)


@example("javascript:alert(1)")
@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20).filter(lambda n: n not in ".."))
def test_an_address_gives_the_path_back(name: str) -> None:
    page, near, far = Path("/home/me/results/a/report.html"), Path("/home/me/clips") / name, Path("/data") / name
    relative, absolute = urlsplit(address(near, page)), urlsplit(address(far, page))
    assert (relative.scheme, relative.query, relative.fragment) == ("", "", "")
    assert unquote(relative.path) == f"../../clips/{name}"
    assert (absolute.scheme, absolute.netloc, unquote(absolute.path)) == ("file", "", str(far))
    assert address(near, page).isascii()


@pytest.mark.parametrize(
    ("spread", "weight", "trained", "expected"),
    [
        (1.0, None, None, ["ratio is 0.25", "Below 1, the scores agree more on matching pairs"]),
        (2.0, 0.5, 0.9, ["ratio is 1.00", "agreement does not tell"]),
        (4.0, None, None, ["ratio is 4.00", "it is the opposite", "was not trained"]),
        (4.0, 0.0, 0.9, ["ratio is 4.00", "it is the opposite", "without the CSC loss"]),
        (4.0, 0.5, None, ["--csc-weight 0.5, which did not bring the ratio below 1"]),
        (4.0, 0.5, 0.25, ["kept epoch is 0.25", "does not carry over"]),
        (4.0, 0.5, 0.996, ["kept epoch is 1.00, so training did not reach its aim either"]),
        (4.0, 0.5, 1.25, ["kept epoch is 1.25", "training did not reach its aim either"]),
    ],
)
def test_a_variance_ratio_is_put_into_words(spread: float, weight: float | None, trained: float | None, expected: list[str]) -> None:
    # Two scores that differ by d have the variance d * d / 2.
    positive_SA = np.array([[0.0, 1.0], [spread, 1.0 + spread]], dtype=np.float32)
    collected = Collected(None, None, positive_SA, positive_SA, 2.0)  # type: ignore[arg-type]
    said = " ".join(ratio_in_words(collected, 100.0, weight, trained))
    assert [part for part in expected if part not in said] == []
    assert ("opposite" in said) == (spread > 2)
    assert ratio_in_words(replace(collected, other_variance=float("nan")), 100.0, weight, trained) == []


def test_the_page_says_what_its_ratio_means(study: Study) -> None:
    said = " ".join(text_of(tag) for tag in study.soup.select("figcaption"))
    ratio = re.search(r"The variance ratio is ([\d.]+): the variance of a pair's 4 scores", said)
    assert ratio is not None
    assert ("Above 1, as here, it is the opposite" in said) == (float(ratio[1]) > 1)


def test_queries_are_filtered_and_sorted(study: Study, open_page: OpenPage) -> None:
    page = open_page(study.out / "report.html")
    rows = page.locator("#query-table tbody tr")
    shown = "rows => rows.filter(row => !row.hidden).map(row => row.querySelector('th bdi').textContent)"
    every = list(study.table["caption"])
    assert rows.evaluate_all(shown) == every
    page.get_by_role("searchbox", name="Words").fill("STAR  twice")
    assert rows.evaluate_all(shown) == ["a star, twice"]
    assert page.locator("#filtered").inner_text() == f"1 of {len(every)} shown"
    page.keyboard.press("Enter")
    page.get_by_role("searchbox", name="Words").fill("")
    kinds = page.get_by_role("combobox", name="Kind")
    assert kinds.locator("option").all_inner_texts() == ["all", "one <i>", "no kind"]
    for label, kind in (("one <i>", "one <i>"), ("no kind", "")):
        kinds.select_option(label=label)
        assert rows.evaluate_all(shown) == list(study.table.loc[study.table["kind"] == kind, "caption"])
    kinds.select_option(label="all")
    assert rows.evaluate_all(shown) == every
    page.get_by_role("combobox", name="Outcome").select_option(label="found first")
    ranks = RankTables.read(study.out).text_to_video
    assert rows.evaluate_all(shown) == list(ranks.loc[ranks["rank"] == 1, "caption"])
    page.get_by_role("combobox", name="Outcome").select_option(label="all")
    for order, sorted_rows in (
        ("rank, worst first", ranks.sort_values("rank", ascending=False, kind="stable")),
        ("rank, best first", ranks.sort_values("rank", kind="stable")),
        ("caption, longest first", ranks.sort_values("caption", key=lambda of: -of.str.len(), kind="stable")),
        ("of the split", ranks),
    ):
        page.get_by_role("combobox", name="Order").select_option(order)
        assert rows.evaluate_all(shown) == list(sorted_rows["caption"])
    assert page.title().startswith(str(study.run))


def test_a_long_kind_widens_no_page_and_hides_no_figures(study: Study, open_page: OpenPage) -> None:
    page = open_page(study.out / "report.html", viewport={"width": 360, "height": 740})
    page.locator("#filter-kind option").nth(1).evaluate("(option, kind) => { option.textContent = kind; }", "x" * MAX_KIND)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    row = page.get_by_role("region", name="Table by kind of caption").locator("tbody tr").first
    row.locator("bdi").evaluate("(name, kind) => { name.textContent = kind; }", "x" * MAX_KIND)
    figure = row.locator("td").first.bounding_box()
    assert figure is not None
    assert figure["x"] + figure["width"] < 360


def test_links_work_by_keyboard(study: Study, open_page: OpenPage) -> None:
    page = open_page(study.out / "report.html", reduced_motion="reduce")
    times = page.locator("details.card[open] .times").first
    moments = times.locator("a")
    assert moments.evaluate_all("links => links.map(link => link.tabIndex)") == [0, *[-1] * (moments.count() - 1)]
    moments.first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.href") == moments.nth(1).evaluate("link => link.href")
    page.keyboard.press("End")
    assert moments.last.evaluate("link => link === document.activeElement && link.tabIndex === 0")
    link = page.locator('#query-table a[href^="#card-"]').last
    card = page.locator(str(link.get_attribute("href")))
    card.evaluate("card => { card.open = false; }")
    link.focus()
    page.keyboard.press("Enter")
    assert card.get_attribute("open") is not None
    # A click on the picture is one on the moment below it.
    times.scroll_into_view_if_needed()
    over = times.evaluate("""times => {
        const picture = times.closest(".strip").querySelector(".picture").getBoundingClientRect();
        return document.elementFromPoint(picture.left + 5, picture.top + 5).closest("a")?.href;
    }""")
    assert over == moments.first.evaluate("link => link.href")


def test_the_page_is_readable_without_scripts(study: Study, open_page: OpenPage) -> None:
    page = open_page(study.out / "report.html", java_script_enabled=False)
    assert page.locator("#query-table tbody tr").count() == len(study.table)
    assert page.locator("#filters").is_hidden()
    assert page.locator("#query-table tbody tr").first.is_visible()
