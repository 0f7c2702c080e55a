"""The report, from its HTML and in a real browser: what it shows, that it shows it to everybody, and that captions stay captions."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from bs4 import BeautifulSoup, Tag
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from playwright.sync_api import Page

import evaluate
import extract
from data.base.errors import UserError
from data.cache import FeatureCache, TextEntry, VideoEntry
from data.compute.processes import ProcessGroup
from data.metrics import RankCounter
from demo import screenshots
from demo.screenshots import ScreenshotOptions
from evaluate import EvaluateOptions
from evaluate.inputs import load
from evaluate.report.cards import WEIGHT_UNITS, CardMaker
from evaluate.report.collect import KEPT, Collected, ReportCollector
from evaluate.report.findings import find_hubs, shared_captions
from evaluate.report.page import write_report
from evaluate.report.pictures import COLUMNS, HEIGHT, column_edges
from evaluate.report.zero_shot import plan_rows, score_rows
from extract import ExtractOptions
from extract.encode.models import load_tokenizer
from tests.browser import OpenPage
from tests.choice import long_but
from tests.conftest import DEMO_CLIP, ROOT
from train_head.run import load_head
from train_head.scoring.answers import Answers
from train_head.scoring.pairs import RankedScores, score_all_pairs
from train_head.scoring.splits import Split, load_split

HOSTILE = (
    "<script>document.title = 'taken'</script>",
    '"><img src=x onerror="document.title = \'taken\'">',
    "</style><style>body { display: none }</style> a red 'circle' & a star",
    "{{ 7 * 7 }} {% raw %} a white ring",
    "</script><script>document.title = 'taken'</script>",
)
SHARED = "a star over a  background"


@dataclass(frozen=True)
class Written:
    """A folder of results, and its report as it was parsed."""

    out: Path
    html: str
    soup: BeautifulSoup

    @classmethod
    def at(cls, out: Path) -> "Written":
        """What `evaluate` left there."""
        html = (out / "report.html").read_text(encoding="utf-8")
        return cls(out, html, BeautifulSoup(html, "html.parser"))

    def cards(self) -> list[Tag]:
        return list(self.soup.select("details.card"))


@pytest.fixture(scope="module")
def report_cache(cache_path: Path, extract_options: ExtractOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test videos of the demo set with three captions each: hostile ones, one that several share, and their own."""
    folder = tmp_path_factory.mktemp("report")
    own = FeatureCache(cache_path).table()
    own = own[own["split"] == "test"].groupby("video_id").head(2)
    videos = own["video_id"].unique()
    said = [HOSTILE[i] if i < len(HOSTILE) else SHARED if i < 8 else f"{SHARED.upper()} {i}" for i in range(len(videos))]
    rows = pd.concat([own[["video_id", "caption"]], pd.DataFrame({"video_id": videos, "caption": said})])
    table = pd.DataFrame({"video": [f"{video_id}.mp4" for video_id in rows["video_id"]], "caption": rows["caption"], "split": "test"})
    table.to_csv(folder / "table.csv", index=False)
    options = replace(extract_options, dataset="table", annotations=folder / "table.csv", cache=folder / "cache")
    return extract.main(options)


@pytest.fixture(scope="module")
def glccl(report_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The report of a head that guides frames by text."""
    out = tmp_path_factory.mktemp("glccl")
    return Written.at(evaluate.main(EvaluateOptions(cache=report_cache, run="zero-shot:glccl", out=out, device="cpu", quiet=True)))


@pytest.fixture(scope="module")
def mean(report_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The report of a head that does not, over a cache without thumbnails and with the wrong model's name."""
    cache = copy_without_pictures(FeatureCache(report_cache), tmp_path_factory.mktemp("bare"))
    out = tmp_path_factory.mktemp("mean")
    return Written.at(evaluate.main(EvaluateOptions(cache=cache, run="zero-shot:mean", out=out, device="cpu", quiet=True)))


def copy_without_pictures(cache: FeatureCache, path: Path, provenance: dict[str, Any] | None = None) -> Path:
    """The same features and captions, and no thumbnails."""
    copy = FeatureCache.create(path, cache.settings, cache.clip_parts(), provenance or cache.provenance)
    ids, preset = cache.names("videos"), cache.listings.select().preset
    videos, texts = cache.videos(ids, 2**30), cache.texts(cache.names("texts"), 2**30)
    copy.write_videos([VideoEntry(ids[i], videos.frames.gather([i])[0].numpy(), videos.seconds[i], 1, 1) for i in range(len(ids))])
    copy.write_texts(
        [
            TextEntry(text, texts.words.gather([i])[0].numpy(), texts.sentences.gather([i])[0][0].numpy())
            for i, text in enumerate(texts.texts)
        ]
    )
    copy.write_table(preset, cache.table(), cache.listings.videos(preset))
    return path


def split_of(cache: Path) -> Split:
    return load_split(FeatureCache(cache), "test", None, 2**30)


def query_of(card: Tag) -> tuple[str, int]:
    kind, index = str(card["data-card"]).split("-")
    return kind, int(index)


def rows_of(strip: Tag) -> np.ndarray:
    return np.array([row.split(",") for row in str(strip["data-weights"]).split(";")], dtype=np.float64) / WEIGHT_UNITS


def collect(cache: Path, run: str) -> tuple[Any, Split, Any, RankCounter, Collected]:
    """All that `write_report` wants, scored here."""
    opened = FeatureCache(cache)
    head, _ = load_head(run, opened, torch.device("cpu"))
    split = split_of(cache)
    counter = RankCounter(split.answers, len(split.videos.ids))
    collector = ReportCollector(Answers(split.texts.texts, split.answers, len(split.videos.ids)), len(head.score_names()))
    score_all_pairs(head, split.texts, split.videos, split.answers, [RankedScores(counter), collector], 2**30)
    return head, split, opened, counter, collector.collected()


def test_the_report_asks_nothing_of_a_network(glccl: Written, mean: Written) -> None:
    for written in (glccl, mean):
        assert "://" not in written.html
        for tag in written.soup.find_all(True):
            for name in ("src", "href", "srcset", "poster", "action", "data"):
                # Links to files of videos load nothing until somebody follows them.
                if tag.has_attr(name) and not (tag.name == "a" and str(tag[name]).startswith("../")):
                    assert str(tag[name]).startswith(("#", "data:")), tag
        assert all(address.startswith(("data:", "#")) for address in re.findall(r"url\(([^)]*)\)", written.html))
        assert "@import" not in written.html
        policy = written.soup.find("meta", attrs={"http-equiv": "Content-Security-Policy"})
        assert isinstance(policy, Tag)
        assert str(policy["content"]).startswith("default-src 'none'")


def test_every_picture_and_plot_has_a_text(glccl: Written, mean: Written) -> None:
    for written, pictures in ((glccl, True), (mean, False)):
        shown = written.soup.select("img, [role=img]")
        assert all(str(tag.get("aria-label") or tag.get("alt") or "").strip() for tag in shown)
        assert bool(written.soup.select(".picture")) == pictures
        assert {"R@1", "MnR"} <= {th.get_text() for th in written.soup.select("th")}


def test_headings_and_landmarks_are_in_order(glccl: Written) -> None:
    levels = [int(tag.name[1]) for tag in glccl.soup.find_all(re.compile("^h[1-6]$"))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(glccl.soup.find_all("main")) == 1
    assert isinstance(glccl.soup.html, Tag)
    assert glccl.soup.html["lang"] == "en"
    ids = [tag["id"] for tag in glccl.soup.find_all(id=True)]
    assert len(ids) == len(set(ids))
    for link in glccl.soup.select('a[href^="#"], [aria-labelledby]'):
        assert str(link.get("href") or "#" + str(link["aria-labelledby"]))[1:] in ids


def test_every_picture_is_there_once_and_64_pixels_high(glccl: Written) -> None:
    files = re.findall(r"\.(p\d+)\{background-image:url\(data:image/jpeg;base64,([^)]+)\)", glccl.html)
    assert len({content for _, content in files}) == len(files) > 0
    for _, content in files:
        assert glccl.html.count(content) == 1
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            assert (image.format, image.height) == ("JPEG", HEIGHT)
    used = Counter(name for tag in glccl.soup.select(".picture") for name in tag["class"] if name != "picture")
    assert set(used) == {name for name, _ in files}
    assert max(used.values()) > 1


def test_queries_are_the_found_and_the_worst(glccl: Written, report_cache: Path) -> None:
    assert 0 < len(glccl.cards()) <= 40
    for direction, kind in (("text-to-video", "text"), ("video-to-text", "video")):
        ranks = pd.read_parquet(glccl.out / f"ranks-{direction}.parquet").set_index("query")["rank"]
        cards = [card for card in glccl.cards() if query_of(card)[0] == kind]
        shown = {query_of(card)[1]: card for card in cards}
        assert len(shown) == len(cards)
        found, worst = [q for q in shown if ranks[q] == 1], [q for q in shown if ranks[q] > 1]
        assert len(found) == min(8, int((ranks == 1).sum()))
        assert sorted(ranks[worst], reverse=True) == [rank for rank in ranks.sort_values(ascending=False)[:8] if rank > 1]
        for query, card in shown.items():
            outcome = card.select_one(".outcome")
            assert isinstance(outcome, Tag)
            assert float(outcome.get_text().split()[-1].replace(",", "")) == ranks[query]


def test_the_answer_of_every_query_is_marked_in_words(glccl: Written, mean: Written, report_cache: Path) -> None:
    split = split_of(report_cache)
    for written in (glccl, mean):
        for card in written.cards():
            kind, query = query_of(card)
            video = split.videos.ids[split.answers[query] if kind == "text" else query]
            entries = card.select("li.entry")
            assert 5 <= len(entries) <= 6
            marked = [entry for entry in entries if "answer" in " ".join(entry.select_one(".place").get_text().split())]  # type: ignore[union-attr]
            own = [entry for entry in entries if entry.select_one(".who bdi").get_text() == video]  # type: ignore[union-attr]
            assert marked == own
            assert len(own) == 1


def test_captions_stay_captions(glccl: Written) -> None:
    assert len(glccl.soup.find_all("script")) == 1
    assert len(glccl.soup.find_all("style")) == 1
    assert not [tag for tag in glccl.soup.find_all(True) if any(name.startswith("on") for name in tag.attrs)]
    assert not glccl.soup.find_all("img")
    said = {tag.get_text() for tag in glccl.soup.find_all("bdi")}
    assert len(said & set(HOSTILE)) >= 3
    assert "49" not in said


def test_weights_of_frames_are_those_of_the_method(glccl: Written, report_cache: Path) -> None:
    """alpha and beta as the paper has them, in float64, over the raw features of the cache."""
    split = split_of(report_cache)
    checked = 0
    for card in glccl.cards():
        kind, _ = query_of(card)
        strips = card.select(".strip")
        captions = [tag.get_text() for tag in (card.select(".asked bdi") if kind == "text" else card.select(".caption bdi"))]
        assert len(strips) == 1 if kind == "video" else len(strips) == len(card.select("li.entry"))
        for strip in strips:
            shown = strip.find_parent(class_="scroll")
            assert isinstance(shown, Tag)
            video = split.videos.ids.index(str(shown["aria-label"]).removeprefix("Frames of "))
            frame_FD = split.videos.frames.gather([video])[0].double()
            expected = []
            for caption in captions:
                text = split.texts.texts.index(caption)
                word_LD, sentence_D = split.texts.words.gather([text])[0].double(), split.texts.sentences.gather([text])[0][0].double()
                expected += [(frame_FD @ guide / 5.0).softmax(dim=0).numpy() for guide in (sentence_D, *word_LD)]
            weights = rows_of(strip)
            np.testing.assert_allclose(weights.sum(axis=1), 1, atol=0.5 * weights.shape[1] / WEIGHT_UNITS + 1e-9)
            np.testing.assert_allclose(weights, np.stack(expected), atol=1.5 / WEIGHT_UNITS)
            checked += len(weights)
        buttons = card.select("button[data-row]")
        assert [int(str(button["data-row"])) for button in buttons] == list(range(len(expected)))
        assert sum(button["aria-pressed"] == "true" for button in buttons) == 1
    assert checked > 100


def test_words_are_those_of_the_tokenizer() -> None:
    tokenizer = load_tokenizer(DEMO_CLIP, "letters")
    caption = "A red  Circle, rising over a chequered\nbackground!"
    tokens = tokenizer.spell(caption, 40)
    assert "".join(tokens[1:-1]).strip() == "a red circle , rising over a chequered background !"
    assert tokenizer.spell(caption, 6)[1:-1] == tokens[1:5]
    with pytest.raises(UserError, match="would have to be fetched"):
        load_tokenizer("hf-hub:someone/something", "letters")
    with pytest.raises(UserError, match=r"no open_clip_config.json in that folder"):
        load_tokenizer("local-dir:/nowhere", "letters")


def test_where_words_cannot_be_spelled_the_report_numbers_them_and_says_why(report_cache: Path, tmp_path: Path) -> None:
    cache = FeatureCache(report_cache)
    options = {**cache.provenance["options"], "model": "local-dir:/a/folder/that/is/gone"}
    moved = copy_without_pictures(cache, tmp_path / "moved", {**cache.provenance, "options": options})
    head, split, _, counter, collected = collect(moved, "zero-shot:glccl")
    maker = CardMaker(head, split, collected, options["model"], cache.settings)
    card = maker.of_text(counter.ranks()[0], 0)
    assert card.text is not None
    labels = [button.label for button in card.text.buttons]
    assert labels[:3] == ["whole caption", "start of text", "word 1"]
    assert labels[-1] == "end of text"
    assert "no open_clip_config.json in that folder" in (maker.no_spelling or "")


def test_heads_show_the_weights_that_they_read(report_cache: Path) -> None:
    shown = {}
    for name in ("glim-global", "glim-local", "xclip"):
        head, split, cache, counter, collected = collect(report_cache, f"zero-shot:{name}")
        maker = CardMaker(head, split, collected, DEMO_CLIP, cache.settings)
        card = maker.of_text(counter.ranks()[0], 0)
        assert card.text is not None
        shown[name] = ({button.kind for button in card.text.buttons}, card.chosen, len(card.text.buttons), card.peak > 0)
    assert shown["glim-global"] == ({"sentence"}, 0, 1, True)
    kinds, chosen, count, _ = shown["glim-local"]
    assert kinds == {"mark", "word"}
    assert chosen == count - 1  # the end token's feature is the sentence's
    assert shown["xclip"] == (set(), 0, 0, False)


def test_a_head_without_guidance_and_a_cache_without_thumbnails_say_so(mean: Written) -> None:
    text = " ".join(mean.soup.get_text().split())
    assert "This head has no text-guided frame weights" in text
    assert "The cache has no thumbnails of these videos" in text
    assert not mean.soup.select(".bars, .words, .picture")
    assert mean.cards()


def test_the_same_results_give_the_same_bytes(glccl: Written, report_cache: Path, tmp_path: Path) -> None:
    head, split, cache, counter, collected = collect(report_cache, "zero-shot:glccl")
    result = json.loads((glccl.out / "metrics.json").read_text())
    options = EvaluateOptions(cache=report_cache, run="zero-shot:glccl", out=tmp_path, device="cpu", quiet=True)
    processes = ProcessGroup()
    inputs = load(options, processes)
    zero_shot = score_rows(plan_rows(options, inputs, processes), options, inputs, processes)
    # Links are relative, and both folders are equally deep.
    write_report(tmp_path, result, split, head, cache, counter.ranks(), collected, 0, zero_shot, inputs.evaluated.record)
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    assert {"cmc.png", "cmc.svg", "hubs.png", "by-words.svg"} <= {path.name for path in files}
    for path in files:
        assert (tmp_path / path).read_bytes() == (glccl.out / path).read_bytes(), path


def test_results_stand_alone_in_their_folder(glccl: Written, report_cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(glccl.out, out)
    (out / "plots" / "mine.txt").write_text("kept")
    evaluate.main(EvaluateOptions(cache=report_cache, run="zero-shot:mean", out=out, device="cpu", report=False, quiet=True))
    assert not (out / "report.html").exists()
    assert [path.name for path in (out / "plots").iterdir()] == ["mine.txt"]


def test_a_damaged_thumbnail_is_named_and_the_figures_are_kept(report_cache: Path, tmp_path: Path) -> None:
    bare = copy_without_pictures(FeatureCache(report_cache), tmp_path / "cache")
    cache = FeatureCache(bare)
    ids = cache.names("videos")
    videos = cache.videos(ids, 2**30)
    broken = [b"\xff\xd8 no picture"]
    cache.write_videos(
        [
            VideoEntry(name, frames := videos.frames.gather([i])[0].numpy(), videos.seconds[i], 1, 1, thumbnails=broken * len(frames))
            for i, name in enumerate(ids)
        ]
    )
    with pytest.raises(UserError, match=r"thumbnail of video .* cannot be read"):
        evaluate.main(EvaluateOptions(cache=bare, run="zero-shot:mean", out=tmp_path / "out", device="cpu", quiet=True))
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["queries"] > 0


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_best_entries_are_those_of_the_whole_matrix(data: st.DataObject) -> None:
    """Few different scores, so that most tie; captions that several videos share, up to all; blocks of any cut, in any order."""
    videos, scores = data.draw(st.integers(1, 14)), data.draw(st.integers(1, 3))
    answers = np.array(sorted([*range(videos), *data.draw(st.lists(st.integers(0, videos - 1), max_size=8))]), dtype=np.int64)
    order = np.array(data.draw(st.permutations(range(len(answers)))))
    answers = answers[order]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    score_SAB = torch.randint(0, 3, (scores, len(answers), videos), generator=generator).float()
    distinct = st.integers(0, data.draw(st.integers(0, len(answers) - 1)))
    captions = [f"caption {data.draw(distinct)}" for _ in answers]
    collector = ReportCollector(Answers(captions, answers, videos), scores)
    cut = data.draw(st.integers(1, videos))
    owners = data.draw(st.integers(1, videos))
    blocks = [(first, low) for first in range(0, videos, cut) for low in range(0, videos, owners)]
    for first, low in data.draw(st.permutations(blocks)):
        texts = torch.from_numpy(np.flatnonzero((answers >= low) & (answers < low + owners)))
        columns = torch.arange(first, min(first + cut, videos))
        collector.update(score_SAB[:, texts[:, None], columns], texts, columns)
    collected = collector.collected()
    mean_AB = score_SAB.mean(dim=0).numpy()
    others = []
    for a, answer in enumerate(answers):
        best = sorted(range(videos), key=lambda b: (-mean_AB[a, b], b))[:KEPT]
        assert collected.videos_of_texts.entry_QK[a].tolist() == best
        np.testing.assert_array_equal(collected.videos_of_texts.score_SQK[:, a], score_SAB[:, a, best])
        np.testing.assert_array_equal(collected.positive_SA[:, a], score_SAB[:, a, answer])
        right = {owner for owner, caption in zip(answers, captions, strict=True) if caption == captions[a]}
        wrong = [b for b in sorted(range(videos), key=lambda b: (-mean_AB[a, b], b)) if b not in right]
        np.testing.assert_array_equal(collected.negative_SA[:, a], score_SAB[:, a, wrong[0]] if wrong else np.full(scores, np.nan))
        others += [score_SAB[:, a, b].numpy() for b in wrong]
    for b in range(videos):
        of_video = [min(np.flatnonzero(answers == owner), key=lambda a: (-mean_AB[a, b], a)) for owner in range(videos)]
        texts_of_video = sorted(of_video, key=lambda a: (-mean_AB[a, b], a))[:KEPT]
        assert collected.texts_of_videos.entry_QK[b].tolist() == texts_of_video
    expected = np.mean([np.var(one, ddof=1) for one in others]) if others and scores > 1 else np.nan
    np.testing.assert_allclose(collected.other_variance, expected, rtol=1e-6, atol=1e-7)


def test_hubs_and_shared_captions_are_counted(glccl: Written) -> None:
    entries = np.array([[0, 1], [0, 2], [0, 3], [0, 1]])
    hubs = find_hubs(entries, 5, 2)
    assert hubs.count_B.tolist() == [4, 2, 1, 1, 0]
    assert hubs.top[:2] == [0, 1]
    spread = np.array([4, 2, 1, 1, 0]) - 1.6
    assert hubs.skewness == pytest.approx((spread**3).mean() / (spread**2).mean() ** 1.5)
    assert find_hubs(entries, 5, 1).count_B.tolist() == [4, 0, 0, 0, 0]
    shared, most = shared_captions(["A dog ", "a  dog", "a dog", "a cat"], np.array([0, 1, 1, 2]))
    assert [(item.caption, item.videos) for item in shared] == [("A dog ", [0, 1])]
    assert most == 75.0
    section = glccl.soup.find("h2", id="shared")
    assert isinstance(section, Tag)
    assert section.parent is not None
    assert "cannot exceed" in section.parent.get_text()


@given(st.integers(1, 200))
def test_columns_hold_every_frame_once(frames: int) -> None:
    edges = column_edges(frames)
    assert edges[0] == 0
    assert edges[-1] == frames
    assert len(edges) - 1 == min(frames, COLUMNS)
    assert (np.diff(edges) > 0).all()


def test_of_a_long_video_a_column_is_a_run_of_frames(report_cache: Path, tmp_path: Path) -> None:
    cache = FeatureCache(report_cache)
    long = FeatureCache(copy_without_pictures(cache, tmp_path / "cache"))
    rng = np.random.default_rng(0)
    ids = cache.names("videos")
    features = [rng.standard_normal((COLUMNS + 7 + i, cache.dimension)).astype(np.float32) for i in range(len(ids))]
    long.write_videos([VideoEntry(name, of, np.arange(len(of)) / 2, 1, 1) for name, of in zip(ids, features, strict=True)])
    head, split, _, counter, collected = collect(long.path, "zero-shot:glim-global")
    card = CardMaker(head, split, collected, None, cache.settings).of_text(counter.ranks()[0], 0)
    sentence_D = split.texts.sentences.gather([0])[0][0].double()
    for entry in card.entries:
        assert entry.strip is not None
        assert len(entry.strip.seconds) == COLUMNS
        frame_FD = split.videos.frames.gather([split.videos.ids.index(entry.video_id)])[0].double()
        alpha_F = (frame_FD @ sentence_D / 5.0).softmax(dim=0).numpy()
        runs = [part.sum() for part in np.split(alpha_F, column_edges(len(alpha_F))[1:-1])]
        np.testing.assert_allclose(np.array(entry.strip.weights[0]) / WEIGHT_UNITS, runs, atol=1.5 / WEIGHT_UNITS)


@pytest.mark.parametrize("count", [1, 2])
def test_a_split_of_one_or_two_videos_has_a_report(report_cache: Path, tmp_path: Path, count: int) -> None:
    """Two of them share a caption, which then has no negative."""
    cache = FeatureCache(copy_without_pictures(FeatureCache(report_cache), tmp_path / "cache"))
    preset = cache.listings.select().preset
    captions, videos = cache.table(), cache.listings.videos(preset)
    kept = videos["video_id"].iloc[:count]
    captions = captions[captions["video_id"].isin(kept)].reset_index(drop=True)
    captions.loc[captions.groupby("video_id").head(1).index, "caption"] = captions["caption"][0]
    cache.write_table(preset, captions, videos[videos["video_id"].isin(kept)])
    options = EvaluateOptions(
        cache=tmp_path / "cache", run="zero-shot:glccl", out=tmp_path / "out", ties="reference", device="cpu", quiet=True
    )
    written = Written.at(evaluate.main(options))
    assert "Ties are counted as in the field" in written.soup.get_text()
    assert all(len(card.select("li.entry")) == count for card in written.cards())
    said = " ".join(written.soup.get_text(" ").split())
    without = len(captions) if count == 1 else 2
    assert f"{without} of {len(captions)} captions are answered by every video and have no negative." in said
    assert not re.search(r"\bnan\b", said)
    paragraphs = [" ".join(tag.get_text().split()) for tag in written.soup.select("section > p")]
    assert any("the score of an entry is their mean. The cache has no thumbnails" in text for text in paragraphs)
    assert [text for text in paragraphs if re.search(r"[a-z]\.[A-Z]", text)] == []


def heights(page: Page, card: str) -> list[list[float]]:
    """Of every strip of a card the heights of its bars in percent."""
    strips = page.locator(f'[data-card="{card}"] .strip')
    said = strips.evaluate_all("strips => strips.map(strip => [...strip.querySelectorAll('.bars i')].map(bar => bar.style.height))")
    return [[float(height.removesuffix("%")) for height in strip] for strip in said]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", long_but([((360, 740),)], [((1280, 900),), ((360, 740),)]))
def test_the_page_shows_in_a_browser(glccl: Written, open_page: OpenPage, scheme: str, size: tuple[int, int]) -> None:
    page = open_page(glccl.out / "report.html", viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    assert page.title() == "zero-shot:glccl on table test: retrieval report"
    assert page.locator("table").first.is_visible()
    assert page.locator("section:not([aria-labelledby=groups]) .plot svg").count() == 5
    page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    shown = page.locator(".picture").evaluate_all(
        "pictures => pictures.map(p => [getComputedStyle(p).backgroundImage.slice(0, 15), p.offsetWidth, p.offsetHeight])"
    )
    assert shown
    assert all(image == 'url("data:image' and width > 20 and height > 20 for image, width, height in shown)
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]
    assert lowest_contrast(page) >= 4.5


def test_the_theme_can_be_chosen(glccl: Written, open_page: OpenPage) -> None:
    page = open_page(glccl.out / "report.html", color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.get_by_role("button", name="Dark").click()
    assert page.evaluate(background) != light
    page.get_by_role("button", name="Light").click()
    assert page.evaluate(background) == light


def test_words_show_their_weights_when_hovered_focused_and_tapped(glccl: Written, open_page: OpenPage) -> None:
    for kind in ("text", "video"):
        first = next(card for card in glccl.cards() if query_of(card)[0] == kind)
        name = str(first["data-card"])
        strips = [rows_of(strip) for strip in first.select(".strip")]
        peak = max(rows.max() for rows in strips)

        def expected(row: int, strips: list[np.ndarray] = strips, peak: float = peak) -> list[list[float]]:
            return [(100 * rows[row] / peak).tolist() for rows in strips]

        page = open_page(glccl.out / "report.html", has_touch=True)
        page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
        buttons = page.locator(f'[data-card="{name}"] button[data-row]')
        said = page.locator(f'[data-card="{name}"] .said b')
        last = buttons.count() - 1
        assert_close(heights(page, name), expected(0), 0.06)
        buttons.nth(2).hover()
        assert_close(heights(page, name), expected(2))
        page.mouse.move(0, 0)
        assert_close(heights(page, name), expected(0))
        buttons.nth(0).focus()
        page.keyboard.press("Tab")
        assert_close(heights(page, name), expected(1))
        assert said.inner_text() == "start of text"
        page.keyboard.press("Enter")
        assert buttons.nth(1).get_attribute("aria-pressed") == "true"
        assert buttons.nth(0).get_attribute("aria-pressed") == "false"
        buttons.nth(last).tap()
        assert buttons.nth(last).get_attribute("aria-pressed") == "true"
        assert_close(heights(page, name), expected(last))
        bars = page.locator(f'[data-card="{name}"] .bars').first
        assert f"{round(100 * strips[0][last][0])}%" in (bars.get_attribute("aria-label") or "")


@pytest.mark.long
def test_pictures_for_the_readme_are_taken(glccl: Written, report_cache: Path, tmp_path: Path) -> None:
    if screenshots.find_chromium() is None:
        pytest.skip("no Chromium is here: install the Debian package chromium (apt-get install chromium)")
    # A process of its own: Playwright runs once in one.
    folders = ["--results", str(glccl.out), "--cache", str(report_cache), "--out", str(tmp_path)]
    command = [sys.executable, "-m", "demo.screenshots", *folders, "--run", "zero-shot:glccl"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    taken = sorted(path.name for path in tmp_path.iterdir())
    assert taken == ["report-dark.png", "report.png", "search-dark.png", "search.png"]
    for name in taken:
        assert (tmp_path / name).stat().st_size < screenshots.MAX_BYTES
        with Image.open(tmp_path / name) as image:
            assert image.width > 900
    with pytest.raises(UserError, match=r"holds no report\.html"):
        screenshots.main(ScreenshotOptions(results=tmp_path, cache=report_cache, run="zero-shot:glccl", out=tmp_path))


def test_on_a_phone_the_frame_of_most_weight_comes_into_sight(glccl: Written, open_page: OpenPage) -> None:
    page = open_page(glccl.out / "report.html", viewport={"width": 360, "height": 740}, has_touch=True)
    card = page.locator("details.card").first
    buttons = card.locator("button[data-row]")
    for row in range(buttons.count()):
        buttons.nth(row).tap()
        out_of_sight = card.locator(".bars").evaluate_all("""all => all.filter((bars) => {
            const tallest = [...bars.children].sort((a, b) => parseFloat(b.style.height) - parseFloat(a.style.height))[0];
            const [bar, box] = [tallest, bars.closest(".scroll")].map((element) => element.getBoundingClientRect());
            return bar.left < box.left || bar.right > box.right;
        }).length""")
        assert out_of_sight == 0


def test_all_can_be_reached_by_keyboard(glccl: Written, open_page: OpenPage) -> None:
    page = open_page(glccl.out / "report.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    closed = page.locator("details.card:not([open])").first
    closed.locator("summary").focus()
    page.keyboard.press("Enter")
    assert page.locator("details.card").nth(1).get_attribute("open") is not None


def assert_close(shown: list[list[float]], expected: list[list[float]], tolerance: float = 0.01) -> None:
    assert len(shown) == len(expected)
    for one, other in zip(shown, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance)


def lowest_contrast(page: Page) -> float:
    """The lowest contrast of a text with what is behind it, by the formula of WCAG 2."""
    found = page.evaluate("""() => {
        const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
        const rgba = (colour) => {
            canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data];
        };
        const light = (colour) => {
            const [r, g, b] = colour.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        let lowest = 21;
        for (const element of document.body.querySelectorAll("*")) {
            const written = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
            if (!written || ["SCRIPT", "STYLE"].includes(element.tagName) || !element.getClientRects().length) continue;
            let behind = element;
            while (behind && rgba(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
            const style = getComputedStyle(element);
            const ink = light(rgba(element instanceof SVGElement ? style.fill : style.color));
            const ground = light(rgba(getComputedStyle(behind || document.body).backgroundColor));
            lowest = Math.min(lowest, (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05));
        }
        return lowest;
    }""")
    return float(found)
