"""The kinds of captions, from the annotations to the split that a stage loads."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import extract
from data.base.errors import UserError
from data.cache import FeatureCache
from data.cache.listings import Listing, Listings
from data.cache.sources import Selection, combine
from data.datasets import find_preset, read_dataset
from data.datasets.kinds import check_kind
from data.exchange.exporting import export_features
from data.exchange.options import ExportOptions
from data.merge import MergeOptions, merge
from extract import ExtractOptions
from tests.annotation_files import didemo_name, write_didemo, write_msrvtt
from tests.caches import OLD
from tests.conftest import DEMO_CLIP
from tests.table_files import HEADER, WRITERS, Logical, read, refusal
from tests.videos import numbered_video
from train_head.scoring.splits import load_split

BUDGET = 10**9
TABLE = "video,caption,kind\na.mp4,x,{}\nb.mp4,y,{}\n"


def kinds_of(captions: pd.DataFrame) -> list[str]:
    return captions["kind"].tolist() if "kind" in captions else ["none has one"]


@pytest.mark.parametrize("form", WRITERS)
def test_the_column_in_every_form_of_table(table_folder: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.table_files.HEADER", [*HEADER, "Kind"])
    rows: Logical = [
        ["a.mp4", "x", "test", "a", 0, 9, "one action"],
        ["a.mp4", "y", "test", "a", 0, 9, None],
        ["b.mp4", "z", "test", "b", 0, 9, "several"],
    ]
    assert kinds_of(read(table_folder, WRITERS[form](rows)).captions) == ["one action", "", "several"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (("one", "two"), ["one", "two"]),
        ((" one \u00a0 action ", "'2'"), ["one action", "'2'"]),
        (("3", "2.50"), ["3", "2.50"]),
        (("NaN", "one"), ["", "one"]),
        (("", "\t "), ["none has one"]),
        (("null", "N/A"), ["none has one"]),
        (("#N/A", "<NA>"), ["none has one"]),
        (("caf\u00e9", "cafe\u0301"), ["caf\u00e9", "caf\u00e9"]),
        (("\u200bone\ufeff", "o\u2060ne"), ["one", "one"]),
        (("\u200b", "\U0001f468\u200d\U0001f467"), ["", "\U0001f468\u200d\U0001f467"]),
        (("a" * 100, "A"), ["a" * 100, "A"]),
    ],
)
def test_what_a_cell_says(table_folder: Path, written: tuple[str, str], expected: list[str]) -> None:
    assert kinds_of(read(table_folder, TABLE.format(*written)).captions) == expected


def test_what_is_no_kind_is_refused_with_its_place(table_folder: Path) -> None:
    assert "table.csv, line 3: a kind of 101 characters" in refusal(table_folder, TABLE.format("one", "a" * 101))
    listed = refusal(table_folder, '{"video": "a.mp4", "caption": "x", "kind": ["one"]}\n' * 2)
    assert "line 1: kind holds a list, not text: write one text in a cell" in listed
    # As pandas writes it to CSV.
    said = refusal(table_folder, TABLE.format("one", "\"['one', 'two']\""))
    assert """table.csv, line 3: the kind "['one', 'two']" is a list or an object: write one category""" in said
    pd.DataFrame({"video": ["a.mp4"], "caption": ["x"], "kind": pd.to_datetime(["2024-01-02"])}).to_parquet(table_folder / "dates.parquet")
    said = refusal(table_folder, (table_folder / "dates.parquet").read_bytes())
    assert "row 1: kind holds a date: write it as text" in said
    half = '{"video": "a.mp4", "caption": "x", "kind": "\\ud800"}\n' * 2
    assert "line 1: the kind '\\ud800' holds a zero byte or half a character" in refusal(table_folder, half)


def test_rows_that_differ_only_in_kind_are_one_caption_without_a_kind(table_folder: Path) -> None:
    found = read(table_folder, "video,caption,kind\na.mp4,x,one\na.mp4,x,two\na.mp4,y,one\na.mp4,y,one\nb.mp4,x,two\n")
    assert found.captions.to_numpy().tolist() == [
        ["a.mp4", "x", "search", ""],
        ["a.mp4", "y", "search", "one"],
        ["b.mp4", "x", "search", "two"],
    ]
    assert "table.csv: captions with several kinds, which count as none: 1" in found.notes
    assert "table.csv: kinds of captions: 'one' (1), 'two' (1), no kind (1)" in found.notes


def test_no_column_of_kinds_changes_no_column_and_no_note(table_folder: Path) -> None:
    plain = read(table_folder, "video,caption\na.mp4,x\n")
    assert list(plain.captions) == ["video_id", "caption", "split"]
    assert not any("kind" in note for note in plain.notes)
    words = read(table_folder, TABLE.format("nan", "one"))
    assert "table.csv: kinds that count as none: 'nan' (1)" in words.notes


def test_kinds_of_sentences_of_msrvtt(tmp_path: Path) -> None:
    write_msrvtt(tmp_path)
    source = tmp_path / "MSRVTT_data.json"
    content = json.loads(source.read_text())
    plain = read_dataset("msrvtt", find_preset("msrvtt", "msrvtt-full", tmp_path), tmp_path, tmp_path)
    assert list(plain.captions) == ["video_id", "caption", "split"]
    for record, kind in zip(content["sentences"], ["one", "several", None, float("nan")], strict=False):
        record["kind"] = kind
    source.write_text(json.dumps(content))
    found = read_dataset("msrvtt", find_preset("msrvtt", "msrvtt-full", tmp_path), tmp_path, tmp_path)
    assert kinds_of(found.captions)[:5] == ["one", "several", "", "", ""]
    assert any(note.startswith("kinds of captions: 'one' (1), 'several' (1), no kind") for note in found.notes)
    lists = tmp_path / "MSRVTT_JSFUSION_test.csv"
    lines = lists.read_text().splitlines()
    lists.write_text("\n".join(f"{line},{kind}" for line, kind in zip(lines, ["kind", "order", *[""] * 9], strict=False)))
    of_list = read_dataset("msrvtt", find_preset("msrvtt", "msrvtt-9k", tmp_path), tmp_path, tmp_path)
    assert kinds_of(of_list.captions[of_list.captions["split"] == "test"]) == ["order", "", "", ""]
    content["sentences"][0]["kind"] = ["one"]
    source.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"record 1 of 'sentences': the kind \['one'\] is not text: write one category in quotes, or leave"):
        read_dataset("msrvtt", find_preset("msrvtt", "msrvtt-full", tmp_path), tmp_path, tmp_path)


def test_kinds_of_msrvtt_that_are_not_read_are_counted(tmp_path: Path) -> None:
    """Sentences of a list stand in place of those of the JSON file, and a list without sentences has no kinds."""
    write_msrvtt(tmp_path)
    source, train = tmp_path / "MSRVTT_data.json", tmp_path / "MSRVTT_train.9k.csv"
    content = json.loads(source.read_text())
    content["sentences"] = [{**record, "kind": "order"} for record in content["sentences"]]
    source.write_text(json.dumps(content))
    train.write_text("\n".join(f"{line},{'kind' if i == 0 else 'one'}" for i, line in enumerate(train.read_text().splitlines())))
    found = read_dataset("msrvtt", find_preset("msrvtt", "msrvtt-9k", tmp_path), tmp_path, tmp_path)
    assert {*kinds_of(found.captions[found.captions["split"] == "train"])} == {"order"}
    assert {*kinds_of(found.captions[found.captions["split"] == "test"])} == {""}
    assert [note for note in found.notes if "not read" in note] == [
        "MSRVTT_train.9k.csv: its column kind is not read, because it has no sentences: give kinds to the sentences of MSRVTT_data.json",
        "MSRVTT_data.json: 8 kinds of videos of MSRVTT_JSFUSION_test.csv are not read, because that list has their sentences: give it a "
        "column kind",
    ]
    lists = tmp_path / "MSRVTT_JSFUSION_test.csv"
    lists.write_text("\n".join(f"{line},{'kind' if i == 0 else 'one'}" for i, line in enumerate(lists.read_text().splitlines())))
    found = read_dataset("msrvtt", find_preset("msrvtt", "msrvtt-9k", tmp_path), tmp_path, tmp_path)
    assert {*kinds_of(found.captions[found.captions["split"] == "test"])} == {"one"}
    assert not any("that list has their sentences" in note for note in found.notes)


def test_a_number_is_a_kind_in_every_form(table_folder: Path, tmp_path: Path) -> None:
    """Records of a data set have the kinds of a table that holds the same values, as JSON and as Parquet."""
    values = [3, 3.0, 2.5, 0, -7, True, False, None, float("nan"), 2**70]
    expected = ["3", "3", "2.5", "0", "-7", "true", "false", "", "", str(2**70)]
    lines = [json.dumps({"video": "a.mp4", "caption": f"caption {i}", "kind": value}) for i, value in enumerate(values)]
    assert kinds_of(read(table_folder, "\n".join(lines)).captions) == expected
    numbers = {"video": "a.mp4", "caption": ["x", "y", "z"], "kind": [3, None, 4]}
    pd.DataFrame(numbers).to_parquet(table_folder / "table.parquet")
    assert kinds_of(read(table_folder, (table_folder / "table.parquet").read_bytes()).captions) == ["3", "", "4"]
    assert kinds_of(read(table_folder, pd.DataFrame(numbers).astype({"kind": "Int64"}).to_csv(index=False)).captions) == ["3", "", "4"]
    write_msrvtt(tmp_path)
    source = tmp_path / "MSRVTT_data.json"
    content = json.loads(source.read_text())
    for record, value in zip(content["sentences"], values, strict=False):
        record["kind"] = value
    source.write_text(json.dumps(content))
    found = read_dataset("msrvtt", find_preset("msrvtt", "msrvtt-full", tmp_path), tmp_path, tmp_path)
    assert kinds_of(found.captions)[: len(values)] == expected
    write_didemo(tmp_path)
    records = json.loads((tmp_path / "test_data.json").read_text())
    (tmp_path / "test_data.json").write_text(json.dumps([{**record, "kind": 3} for record in records]))
    paragraphs = read_dataset("didemo", find_preset("didemo", None, tmp_path), tmp_path, tmp_path).captions
    assert set(kinds_of(paragraphs[paragraphs["split"] == "test"])) == {"3"}
    (tmp_path / "test_data.json").write_text(json.dumps([{**record, "kind": {"is": 3}} for record in records]))
    with pytest.raises(UserError, match=r"test_data\.json, record 1: the kind \{'is': 3\} is not text"):
        read_dataset("didemo", find_preset("didemo", None, tmp_path), tmp_path, tmp_path)


def test_a_paragraph_has_the_kind_that_its_descriptions_share(tmp_path: Path) -> None:
    write_didemo(tmp_path)
    source = tmp_path / "test_data.json"
    records = json.loads(source.read_text())
    given: dict[str, list[str | None]] = {
        didemo_name(23): ["order", "order"],
        didemo_name(24): ["order", "whole"],
        didemo_name(25): ["order", None],
    }
    for record in records:
        if record["video"] in given:
            record["kind"] = given[record["video"]].pop()
    source.write_text(json.dumps(records))
    found = read_dataset("didemo", find_preset("didemo", None, tmp_path), tmp_path, tmp_path)
    assert kinds_of(found.captions[found.captions["split"] == "test"]) == ["order", "", "", ""]
    assert "2 paragraphs of test_data.json join descriptions of several kinds, and have none" in found.notes


@pytest.fixture(scope="module")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> ExtractOptions:
    """Four small videos, a table with kinds, and the cache of both."""
    folder = tmp_path_factory.mktemp("kinds")
    for number in range(4):
        numbered_video(folder / "videos" / f"v{number}.mp4", 4 + 2 * number, 2)
    options = ExtractOptions(
        dataset="table",
        videos=folder / "videos",
        annotations=folder / "own.csv",
        cache=folder / "cache",
        model=DEMO_CLIP,
        device="cpu",
        quiet=True,
    )
    write_table(options, ["one", "several", "", "one"])
    extract.main(options)
    return options


def write_table(options: ExtractOptions, kinds: list[str] | None) -> None:
    rows = {"video": [f"v{i}.mp4" for i in range(4)], "caption": [f"level {i}" for i in range(4)], "split": ["test"] * 4}
    assert options.annotations is not None
    pd.DataFrame(rows if kinds is None else rows | {"kind": kinds}).to_csv(options.annotations, index=False)


def loaded(path: Path) -> tuple[str, ...] | None:
    return load_split(FeatureCache(path), "test", None, BUDGET).kinds


def test_kinds_follow_the_table_and_features_stay(own_data: ExtractOptions, tmp_path: Path) -> None:
    shutil.copytree(own_data.cache, tmp_path / "cache")
    options = replace(own_data, cache=tmp_path / "cache", annotations=tmp_path / "own.csv", name="own")
    assert loaded(options.cache) == ("one", "several", "", "one")
    parts = {path.name: path.read_bytes() for path in options.cache.glob("*.h5")}
    write_table(options, ["order"] * 4)
    extract.main(options)
    assert loaded(options.cache) == ("order",) * 4
    write_table(options, None)
    extract.main(options)
    assert loaded(options.cache) is None
    assert list(FeatureCache(options.cache).table()) == ["video_id", "caption", "split"]
    assert {path.name: path.read_bytes() for path in options.cache.glob("*.h5")} == parts


def test_kinds_through_a_merged_file_and_an_export(own_data: ExtractOptions, tmp_path: Path) -> None:
    merge(MergeOptions(own_data.cache, tmp_path / "one.h5"))
    assert loaded(tmp_path / "one.h5") == ("one", "several", "", "one")
    export_features(ExportOptions(own_data.cache, tmp_path / "out", quiet=True))
    assert kinds_of(read_dataset("table", find_preset("table", None, tmp_path), tmp_path / "out/table-own.parquet", tmp_path).captions) == [
        "one",
        "several",
        "",
        "one",
    ]


def test_a_cache_of_an_earlier_format_has_no_kinds() -> None:
    assert loaded(OLD / "cache") is None


def test_shares_of_the_work_list_kinds(own_data: ExtractOptions, tmp_path: Path) -> None:
    """Processes that read tables with other kinds do not complete one listing."""
    listings, listing = Listings(own_data.cache), FeatureCache(own_data.cache).listings
    own = Listing(listings.sources()["own"], listing.captions("own"), listing.videos("own"))
    changed = Listing(own.source, own.captions.assign(kind="order"), own.videos)
    assert own.digest() != changed.digest()
    (tmp_path / "cache").mkdir()
    pending = Listings(tmp_path / "cache")
    for part in range(2):
        pending.begin("own", own, (part, 2))
        pending.complete("own", own, (part, 2))
    assert kinds_of(pending.captions("own")) == ["one", "several", "", "one"]


def test_sources_with_and_without_kinds_combined() -> None:
    def selection(name: str, **captions: list[str]) -> Selection:
        table = pd.DataFrame({"split": "test", **captions})
        return Selection((name,), "table", table, table[["video_id", "split"]].drop_duplicates())

    plain = selection("a", video_id=["v", "v", "w"], caption=["x", "y", "x"])
    kinds = selection("b", video_id=["v", "w", "w", "u"], caption=["x", "x", "z", "x"], kind=["one", "", "several", ""])
    joined = combine([plain, kinds]).captions
    assert joined[["video_id", "caption", "kind"]].to_numpy().tolist() == [
        ["v", "x", "one"],
        ["v", "y", ""],
        ["w", "x", ""],
        ["w", "z", "several"],
        ["u", "x", ""],
    ]
    other = selection("c", video_id=["v"], caption=["x"], kind=["order"])
    assert combine([kinds, other]).captions.iloc[0]["kind"] == "one"
    assert list(combine([plain, plain]).captions) == ["split", "video_id", "caption"]


def test_a_kind_is_checked_as_it_is_written() -> None:
    with pytest.raises(UserError, match="here: a kind of 101 characters"):
        check_kind(10**100, "here")
