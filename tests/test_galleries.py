"""What is in a gallery: what folders and tables last listed, not all that was ever extracted."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import data.cache.listings
import evaluate.stage
import extract.stage
from data.base.errors import UserError
from data.cache import FeatureCache
from data.cache.listings import Listings, listing_of
from data.cache.prune import drop
from data.cache.sources import Source
from data.cli.command import SOME_FAILED
from data.sources import SourcesOptions, print_sources
from data.verify import VerifyOptions, verify
from evaluate.options import EvaluateOptions
from extract import ExtractOptions, main
from extract.plan.listing import prune
from search import SearchOptions
from search import main as find
from search.retrieval.files import VideoFiles
from search.searcher import Searcher
from search.serve.answering import Answering
from search.serve.app import make_app
from tests.conftest import DEMO_CLIP
from tests.videos import numbered_video
from train_head.scoring.splits import load_split

BUDGET = 2**26
MORE: dict[str, dict[str, Any]] = {"listed": {}, "named": {"name": "b"}, "all": {"all": True}}
Search = Callable[..., list[str]]


@pytest.fixture
def options(tmp_path: Path) -> ExtractOptions:
    for i in range(4):
        numbered_video(tmp_path / "one" / f"v{i}.mp4", 20 + 5 * i, 5)
    return ExtractOptions(videos=tmp_path / "one", cache=tmp_path / "cache", model=DEMO_CLIP, device="cpu", quiet=True, json=True)


@pytest.fixture
def search(options: ExtractOptions) -> Search:
    """The ids that a search would rank."""

    def found(**more: Any) -> list[str]:
        asked = SearchOptions(options.cache, "zero-shot:mean", device="cpu", quiet=True)
        return Searcher(replace(asked, **more), queries=False).gallery.ids

    return found


def table(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(["video,caption,split", *rows]) + "\n")
    return path


def test_deleted_and_renamed_videos_leave_the_gallery_and_then_the_cache(
    options: ExtractOptions, search: Search, capsys: pytest.CaptureFixture[str]
) -> None:
    main(options)
    assert search() == ["v0.mp4", "v1.mp4", "v2.mp4", "v3.mp4"]
    (options.videos / "v0.mp4").unlink()
    (options.videos / "v1.mp4").rename(options.videos / "new.mp4")
    main(options)
    assert search() == ["new.mp4", "v2.mp4", "v3.mp4"]
    assert search(all=True) == ["new.mp4", "v0.mp4", "v1.mp4", "v2.mp4", "v3.mp4"]
    with pytest.raises(UserError, match=r"no video 'v0.mp4'"):
        find(SearchOptions(options.cache, "zero-shot:mean", video="v0.mp4", device="cpu", quiet=True))

    main(replace(options, prune=True, dry_run=True))
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["unlisted"] == {"videos": 2, "texts": 0, "patches": 0}
    assert len(FeatureCache(options.cache).names("videos")) == 5
    kept = {name: FeatureCache(options.cache).fingerprint([name]) for name in ("new.mp4", "v2.mp4", "v3.mp4")}
    main(replace(options, prune=True))
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["pruned_videos"], said["pruned_texts"]) == (2, 0)
    assert said["pruned_bytes"] > 0
    assert search(all=True) == search() == ["new.mp4", "v2.mp4", "v3.mp4"]
    assert {name: FeatureCache(options.cache).fingerprint([name]) for name in kept} == kept
    assert verify(VerifyOptions(options.cache)) == 0


def test_what_is_kept_of_a_part_has_the_bytes_it_had(options: ExtractOptions) -> None:
    main(options)
    before = FeatureCache(options.cache)
    names = ["v1.mp4", "v3.mp4"]
    frames, pictures = before.videos(names, BUDGET).frames.gather([0, 1])[0], [before.images("thumbnails", name) for name in names]
    for name in ("v0.mp4", "v2.mp4"):
        (options.videos / name).unlink()
    main(replace(options, prune=True))
    after = FeatureCache(options.cache)
    assert sorted(after.names("videos")) == names
    assert after.videos(names, BUDGET).frames.gather([0, 1])[0].equal(frames)
    assert [after.images("thumbnails", name) for name in names] == pictures
    assert all(after.is_current(name, *(stat.st_size, stat.st_mtime_ns)) for name in names if (stat := (options.videos / name).stat()))


def test_other_segments_take_the_place_of_those_before(options: ExtractOptions, search: Search) -> None:
    numbered_video(options.videos / "v0.mp4", 60, 5)
    for name in ("v1.mp4", "v2.mp4", "v3.mp4"):
        (options.videos / name).unlink()
    main(replace(options, segment=5))
    assert search() == ["v0.mp4#t=0,5", "v0.mp4#t=5"]
    main(replace(options, segment=3))
    assert search() == ["v0.mp4#t=0,3", "v0.mp4#t=3,6", "v0.mp4#t=6,9", "v0.mp4#t=9"]


def test_folders_and_tables_stand_side_by_side(options: ExtractOptions, search: Search, tmp_path: Path) -> None:
    other = numbered_video(tmp_path / "two" / "w0.mp4", 20, 5).parent
    main(options)
    main(replace(options, videos=other))
    first = table(tmp_path / "first.csv", "v0.mp4,a ring,test", "v1.mp4,a cross,test", "v2.mp4,a heart,train")
    second = table(tmp_path / "second.csv", "v0.mp4,a ring,test", "v3.mp4,a square,test", "v0.mp4,another ring,test")
    for annotations in (first, second):
        main(replace(options, annotations=annotations))
    assert search() == ["v0.mp4", "v1.mp4", "v2.mp4", "v3.mp4", "w0.mp4"]
    assert search(name="two") == ["w0.mp4"]
    assert search(name="second") == ["v0.mp4", "v3.mp4"]
    cache = FeatureCache(options.cache)
    both = load_split(cache, "test", None, BUDGET)
    assert sorted(both.texts.texts) == ["a cross", "a ring", "a square", "another ring"]
    assert (sorted(both.videos.ids), both.sources) == (["v0.mp4", "v1.mp4", "v3.mp4"], ("first", "second"))
    assert sorted(load_split(cache, "test", None, BUDGET, source="second").videos.ids) == ["v0.mp4", "v3.mp4"]
    evaluate.stage.evaluate(
        EvaluateOptions(options.cache, "zero-shot:mean", tmp_path / "out", name="first", report=False, device="cpu", quiet=True)
    )
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["gallery"] == 2
    with pytest.raises(UserError, match=r"--name third.*first, second"):
        load_split(cache, "test", None, BUDGET, source="third")
    with pytest.raises(UserError, match=r"--name third.*first, one, second, two"):
        search(name="third")

    table(second, "v1.mp4,a cross,train")
    main(replace(options, annotations=second))
    with pytest.raises(UserError, match=r"'v1.mp4' is in split train of second and in split test.*--name"):
        load_split(cache, "test", None, BUDGET)


def test_a_named_table_is_replaced_by_the_next_of_its_name(options: ExtractOptions, search: Search, tmp_path: Path) -> None:
    main(replace(options, annotations=table(tmp_path / "a.csv", "v0.mp4,a ring,test"), name="mine"))
    main(replace(options, annotations=table(tmp_path / "b.csv", "v1.mp4,a ring,test"), name="mine"))
    assert search() == ["v1.mp4"]


def test_a_second_source_of_the_same_name_is_refused(options: ExtractOptions, search: Search, tmp_path: Path) -> None:
    main(options)
    other = numbered_video(tmp_path / "elsewhere" / "one" / "w.mp4", 20, 5).parent
    with pytest.raises(UserError, match=r"has 'one' from .*/one already.*--name"):
        main(replace(options, videos=other))
    # Not mounted, it may come back.
    options.videos.rename(tmp_path / "gone")
    with pytest.raises(UserError, match=r"has 'one' from .*/one already.*--name"):
        main(replace(options, videos=other))
    # Where most of its videos are elsewhere now, it has moved.
    (tmp_path / "gone").rename(tmp_path / "elsewhere" / "moved")
    shutil.rmtree(other)
    (tmp_path / "elsewhere" / "moved").rename(other)
    (other / "v3.mp4").unlink()
    main(replace(options, videos=other))
    assert search() == ["v0.mp4", "v1.mp4", "v2.mp4"]


def test_an_id_is_one_file(options: ExtractOptions, search: Search, tmp_path: Path) -> None:
    main(options)
    other = numbered_video(tmp_path / "two" / "v0.mp4", 50, 5).parent
    with pytest.raises(UserError, match=r"'v0.mp4' is .*/two/v0.mp4 here and .*/one/v0.mp4 in one"):
        main(replace(options, videos=other))
    assert search() == ["v0.mp4", "v1.mp4", "v2.mp4", "v3.mp4"]
    assert list(Listings(options.cache).sources()) == ["one"]
    # A copy is the same file.
    shutil.copyfile(options.videos / "v0.mp4", other / "v0.mp4")
    main(replace(options, videos=other))
    assert search(name="two") == ["v0.mp4"]


@pytest.mark.parametrize("how", ["missing", "empty", "no file of a table"])
def test_what_is_not_there_replaces_no_listing(
    options: ExtractOptions, search: Search, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if how == "no file of a table":
        options = replace(options, annotations=table(tmp_path / "a.csv", "v0.mp4,a ring,test", "v1.mp4,a cross,test"), allow_missing=True)
    main(options)
    before = search()
    shutil.move(options.videos, tmp_path / "unmounted")
    if how != "missing":
        options.videos.mkdir()
    if how == "no file of a table":
        main(options)
        assert "the file names in its listing are kept" in capsys.readouterr().err
    else:
        with pytest.raises(UserError, match="is not a folder" if how == "missing" else "holds no video files"):
            main(options)
    assert search() == before


def test_a_folder_in_it_that_is_empty_may_be_a_disk_that_is_not_mounted(
    options: ExtractOptions, search: Search, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = numbered_video(options.videos / "disk" / "w.mp4", 20, 5).parent
    main(options)
    shutil.move(disk, tmp_path / "unmounted")
    disk.mkdir()
    main(replace(options, prune=True))
    assert "1 missing videos stay in the gallery: their folder, such as disk, is empty" in capsys.readouterr().err
    assert "disk/w.mp4" in search()
    disk.rmdir()
    main(options)
    assert "disk/w.mp4" not in search()


def test_a_listing_counts_when_its_features_are_there(options: ExtractOptions, search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    main(options)

    def ends(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(extract.stage, "_extract_videos", ends)
        with pytest.raises(KeyboardInterrupt):
            main(replace(options, segment=3))
    assert search() == ["v0.mp4", "v1.mp4", "v2.mp4", "v3.mp4"]
    main(replace(options, segment=3))
    assert search() == ["v0.mp4", *(f"v{i}.mp4#t={part}" for i in (1, 2, 3) for part in ("0,3", "3"))]


def test_pruning_leaves_what_another_process_writes(options: ExtractOptions, search: Search) -> None:
    main(options)
    parts = sorted(options.cache.glob("*-*.h5"))
    opened = FeatureCache(options.cache)
    numbered_video(options.videos / "v4.mp4", 20, 5)
    main(options)  # a part more
    drop(opened, {"videos": {"v0.mp4"}, "texts": set()}, parts)
    assert search(all=True) == ["v1.mp4", "v2.mp4", "v3.mp4", "v4.mp4"]
    # What is about to be listed is dropped by nobody.
    listings, listing = Listings(options.cache), Listings(options.cache).videos("one")
    listings.remove("one")
    listings.begin("one", listing_of(listings.captions("one"), listing, Source("folder")))
    prune(options.cache)
    assert search(all=True) == ["v1.mp4", "v2.mp4", "v3.mp4", "v4.mp4"]


@pytest.mark.parametrize("damage", ["a bit", "half", "lost"])
def test_a_damaged_listing_is_said_and_written_anew(
    options: ExtractOptions,
    search: Search,
    tmp_path: Path,
    damage: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(data.cache.listings, "PATIENCE_S", 0.01)
    main(options)
    main(replace(options, annotations=table(tmp_path / "t.csv", "v0.mp4,a ring,test")))
    file = options.cache / "videos-one.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 4
    if damage == "lost":
        file.unlink()
    else:
        file.write_bytes(content if damage == "a bit" else content[: len(content) // 2])
    for work in (search, lambda: main(replace(options, annotations=tmp_path / "t.csv", prune=True))):
        with pytest.raises(UserError, match=r"videos-one.parquet is damaged: run extract again"):
            work()
    assert verify(VerifyOptions(options.cache)) == SOME_FAILED
    main(options)
    assert "the listing of one in" in capsys.readouterr().err
    assert verify(VerifyOptions(options.cache)) == 0
    assert search() == ["v0.mp4", "v1.mp4", "v2.mp4", "v3.mp4"]


def test_what_failed_is_in_no_gallery_though_its_older_features_are_there(options: ExtractOptions, search: Search, tmp_path: Path) -> None:
    options = replace(options, annotations=table(tmp_path / "t.csv", "v0.mp4,a ring,test", "v1.mp4,a cross,test"))
    main(options)
    (options.videos / "v0.mp4").write_text("no video any more")
    main(options)
    assert search() == ["v1.mp4"]
    assert load_split(FeatureCache(options.cache), "test", None, BUDGET, allow_missing=True).videos.ids == ["v1.mp4"]
    (options.videos / "v0.mp4").unlink()
    main(replace(options, annotations=table(tmp_path / "t.csv", "v1.mp4,a cross,test"), prune=True))
    assert not (options.cache / "failures.csv").exists()
    assert search(all=True) == ["v1.mp4"]


def test_one_id_is_not_two_parts(options: ExtractOptions, tmp_path: Path) -> None:
    main(options)
    parts = tmp_path / "parts.csv"
    parts.write_text("video,caption,split,start,end\nv0.mp4,a ring,test,1,3\n")
    with pytest.raises(UserError, match=r"'v0.mp4' is 1 to 3 s of its file here and all in one: .* a column video_id"):
        main(replace(options, annotations=parts))
    parts.write_text("video_id,video,caption,split,start,end\nv0 later,v0.mp4,a ring,test,1,3\n")
    main(replace(options, annotations=parts))
    assert FeatureCache(options.cache).videos(["v0.mp4", "v0 later"], BUDGET).frames.length_N.tolist() == [4, 2]


def test_a_folder_in_the_place_of_a_table_has_no_captions(options: ExtractOptions, tmp_path: Path) -> None:
    main(replace(options, annotations=table(tmp_path / "t.csv", "v0.mp4,a ring,test"), name="mine"))
    main(replace(options, name="mine"))
    with pytest.raises(UserError, match="has no captions"):
        load_split(FeatureCache(options.cache), "test", None, BUDGET)


def test_a_source_is_dropped_by_name(options: ExtractOptions, search: Search, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(options)
    main(replace(options, annotations=table(tmp_path / "t.csv", "v0.mp4,a ring,test")))
    capsys.readouterr()
    print_sources(SourcesOptions(options.cache, drop="one", json=True))
    rows = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["videos"], row["captions"]) for row in rows] == [("t", 1, 1)]
    assert search() == ["v0.mp4"]
    with pytest.raises(UserError, match=r"--drop one: .* it has: t"):
        print_sources(SourcesOptions(options.cache, drop="one"))


def test_captions_for_a_video_are_those_of_the_gallery(options: ExtractOptions, tmp_path: Path) -> None:
    for name, captions in (("a", ["a ring", "a cross"]), ("b", ["a heart"])):
        main(replace(options, annotations=table(tmp_path / f"{name}.csv", *(f"v0.mp4,{caption},test" for caption in captions))))
    main(replace(options, annotations=table(tmp_path / "a.csv", "v0.mp4,a ring,test")))
    asked = SearchOptions(options.cache, "zero-shot:mean", device="cpu", quiet=True)
    found = {key: Searcher(replace(asked, **more), queries=False).cached_captions().texts for key, more in MORE.items()}
    assert found == {"listed": ["a heart", "a ring"], "named": ["a heart"], "all": ["a cross", "a heart", "a ring"]}


def test_a_page_plays_the_file_that_a_video_was_made_from(options: ExtractOptions, tmp_path: Path) -> None:
    main(options)
    other = numbered_video(tmp_path / "two" / "v0.mp4", 50, 5).parent
    rows = tmp_path / "rows.csv"
    rows.write_text("video_id,video,caption,split\nmine,v0.mp4,a ring,test\n")
    main(replace(options, videos=other, annotations=rows))
    searcher = Searcher(SearchOptions(options.cache, "zero-shot:mean", device="cpu", quiet=True), queries=False)
    client = make_app(Answering(searcher), options.videos, "zero-shot:mean", "localhost").test_client()
    for name, folder in (("v0.mp4", options.videos), ("mine", other)):
        with client.get(f"/video/{name}") as response:
            assert response.data == (folder / "v0.mp4").read_bytes()
    # Whoever names a folder means this one.
    files = VideoFiles(other, searcher.files, searcher.cache)
    assert (files.path_of("v0.mp4"), files.path_of("mine")) == (None, other / "v0.mp4")


def test_shares_of_different_listings_are_not_joined(options: ExtractOptions, search: Search) -> None:
    main(options)
    main(replace(options, shard="1/2"))  # as after an interruption
    numbered_video(options.videos / "a.mp4", 20, 5)
    main(replace(options, shard="0/2"))
    assert search() == ["v0.mp4", "v1.mp4", "v2.mp4", "v3.mp4"]
    main(replace(options, shard="1/2"))
    assert search() == ["a.mp4", "v0.mp4", "v1.mp4", "v2.mp4", "v3.mp4"]
    for shard in ("0/2", "0/3", "1/3", "2/3"):
        main(replace(options, shard=shard))
    assert not list(options.cache.glob("*-of-*"))
    listed = Listings(options.cache).videos("one")
    assert listed["video_id"].tolist() == ["a.mp4", "v0.mp4", "v1.mp4", "v2.mp4", "v3.mp4"]


def test_shares_of_a_listing_are_joined(options: ExtractOptions, search: Search) -> None:
    main(options)
    (options.videos / "v0.mp4").unlink()
    main(replace(options, shard="0/2"))
    assert search() == ["v0.mp4", "v1.mp4", "v2.mp4", "v3.mp4"]  # the last complete listing
    main(replace(options, shard="1/2"))
    assert search() == ["v1.mp4", "v2.mp4", "v3.mp4"]
    assert not list(options.cache.glob("*-of-*"))
    with pytest.raises(UserError, match=r"--prune with --shard"):
        main(replace(options, shard="0/2", prune=True))


def test_shares_are_searched_before_the_last_is_there(options: ExtractOptions, search: Search) -> None:
    main(replace(options, shard="1/2"))
    assert search() == ["v1.mp4", "v3.mp4"]
