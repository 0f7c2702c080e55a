"""A server that keeps up with the folder of its videos."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from playwright.sync_api import expect

import extract
from data.base.errors import UserError
from data.cache import FeatureCache
from data.cli.options_file import read_options
from data.merge import MergeOptions, merge
from extract import ExtractOptions
from search import serve
from search.serve import ServeOptions
from search.watch.folders import find_folders
from tests.browser import OpenPage
from tests.conftest import DEMO_CLIP, ROOT
from tests.waiting import wait_until


@dataclass(frozen=True)
class Served:
    """A folder of videos, and the server that watches it."""

    folder: Path
    address: str

    def page(self, path: str = "") -> str:
        with urlopen(f"{self.address}{path}", timeout=60) as answer:
            return str(answer.read().decode())

    def found(self) -> set[str]:
        """The videos that a query finds; it shows all of the gallery."""
        return set(re.findall(r'data-video="(\S+)"', self.page(f"results?q={quote('a red ring')}")))

    def watch(self) -> str:
        """The text of what the page shows about the folder."""
        return " ".join(re.sub("<[^>]+>", "", self.page("watch")).split())

    def wait_for(self, videos: set[str], line: str) -> None:
        wait_until(lambda: re.search(line, self.watch()) and self.found() == videos, f"{videos} with {line!r}", limit_s=240)


@pytest.fixture
def options(demo_set: Path, tmp_path: Path) -> ServeOptions:
    """A folder of two videos, extracted."""
    made = ExtractOptions(tmp_path / "videos", tmp_path / "cache", model=DEMO_CLIP, device="cpu", quiet=True, time_limit=77)
    for number in (1, 2):
        drop(demo_set, made.videos, number)
    extract.main(made)
    return ServeOptions(made.cache, "zero-shot:mean", port=0, device="cpu", quiet=True, watch=True, watch_every=0.05)


def drop(demo_set: Path, folder: Path, number: int, name: str = "") -> None:
    """Put a video of the demo set into a folder, all at once."""
    to = folder / (name or f"video{number}.mp4")
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(demo_set / "videos" / f"video{number}.mp4", to.with_name(f".{to.name}"))
    to.with_name(f".{to.name}").replace(to)


def alive(*which: str) -> list[int]:
    """The ids of the processes that pgrep finds, without those that have ended and that nobody has asked for."""
    done = subprocess.run(["pgrep", "--runstates", "R,S,D", *which], capture_output=True, text=True, check=False)
    return [int(process) for process in done.stdout.split()]


@contextmanager
def watched(options: ServeOptions) -> Iterator[Served]:
    with serve.serving(options) as address:
        yield Served(options.cache.parent / "videos", address)


@pytest.mark.long
def test_what_is_new_is_found_and_what_is_gone_is_not(options: ServeOptions, demo_set: Path) -> None:
    folder = options.cache.parent / "videos"
    drop(demo_set, folder, 3, "new/video3.mp4")
    (folder / "video1.mp4").unlink()
    (folder / "broken.mp4").write_bytes(b"no video")
    with watched(options) as served:
        assert f"Watching {folder}: " in served.page()  # the page shows the state without scripts
        served.wait_for({"video2.mp4", "new/video3.mp4"}, r"up to date since \d\d:\d\d 1 could not be read: broken.mp4 broken.mp4: ")
        assert FeatureCache(options.cache).listings.names() == ["videos"]


@pytest.mark.long
def test_changes_of_all_kinds_are_followed_while_queries_are_answered(options: ServeOptions, demo_set: Path) -> None:
    with watched(options) as served:
        served.wait_for({"video1.mp4", "video2.mp4"}, "up to date")
        for number in range(3, 13):
            drop(demo_set, served.folder, number)
        everything = {f"video{number}.mp4" for number in range(1, 13)}
        counts = set()

        def all_found() -> bool:
            found = served.found()
            counts.add(len(found))
            return len(found) == 10  # as many as the page shows

        wait_until(all_found, "the page is full")
        assert len(counts) > 2  # the first were found before the last
        for number in range(4, 13):
            (served.folder / f"video{number}.mp4").unlink()
        served.wait_for(everything - {f"video{number}.mp4" for number in range(4, 13)}, "up to date")
        # A video that comes back was not forgotten, and one that is replaced is read again.
        cache = FeatureCache(options.cache)
        before = {name: cache.written_ns(name) for name in ("video2.mp4", "video4.mp4")}
        drop(demo_set, served.folder, 4)
        drop(demo_set, served.folder, 9, "video2.mp4")
        served.wait_for({f"video{number}.mp4" for number in range(1, 5)}, "up to date")
        cache = FeatureCache(options.cache)
        assert cache.written_ns("video4.mp4") == before["video4.mp4"]
        assert cache.written_ns("video2.mp4") > before["video2.mp4"]


@pytest.mark.long
def test_in_a_browser_the_line_follows(options: ServeOptions, demo_set: Path, open_page: OpenPage) -> None:
    folder = options.cache.parent / "videos"
    (folder / "broken.mp4").write_bytes(b"no video")
    with watched(options) as served:
        page = open_page(served.address, viewport={"width": 360, "height": 640})
        line = page.locator("#watch p")
        expect(line).to_contain_text("up to date since", timeout=60_000)
        listed = page.locator("#watch details")
        listed.get_by_text("1 could not be read: broken.mp4").click()
        expect(listed.get_by_role("listitem")).to_contain_text("broken.mp4: ")
        (folder / "also<b>.mp4").write_bytes(b"no video either")
        expect(listed.get_by_text("2 could not be read")).to_be_visible(timeout=60_000)
        expect(listed.get_by_role("listitem")).to_have_count(2)  # it stays open
        expect(listed).to_contain_text("also<b>.mp4: ")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        expect(listed.locator("summary")).to_be_focused()  # though the line was written anew
        page.close()


@pytest.mark.long
def test_in_a_browser_the_way_back_leads_to_the_gallery_as_it_is(options: ServeOptions, demo_set: Path, open_page: OpenPage) -> None:
    with watched(options) as served:
        page = open_page(served.address)
        for query in ("a red ring", "a blue star"):
            page.get_by_label("What happens in the video?").fill(query)
            page.get_by_role("button", name="Search", exact=True).click()
            expect(page.locator("#status")).to_contain_text(query)
        expect(page.locator(".result")).to_have_count(2)
        drop(demo_set, served.folder, 3)
        expect(page.locator("footer")).to_contain_text("3 videos", timeout=60_000)
        page.go_back()
        expect(page.locator("#status")).to_contain_text("a red ring")
        expect(page.locator(".result")).to_have_count(3)
        page.close()  # before the server ends, of which the page would complain


@pytest.mark.long
def test_a_file_is_read_when_it_is_whole(options: ServeOptions, demo_set: Path) -> None:
    content = (demo_set / "videos" / "video3.mp4").read_bytes()
    with watched(options) as served:
        served.wait_for({"video1.mp4", "video2.mp4"}, "up to date")
        with (served.folder / "video3.mp4").open("wb", buffering=0) as file:
            growing = iter(range(0, len(content), 100))

            def still_growing() -> bool:
                """Write a little more before every look."""
                at = next(growing)
                file.write(content[at : at + 100])
                return "1 file is still being written" in served.watch()

            wait_until(still_growing, "the page says that the file grows")
            assert served.found() == {"video1.mp4", "video2.mp4"}
            for at in growing:
                file.write(content[at : at + 100])
        served.wait_for({"video1.mp4", "video2.mp4", "video3.mp4"}, "up to date since [0-9:]+$")


@pytest.mark.long
def test_a_folder_that_vanishes_keeps_its_gallery_and_is_followed_when_it_is_back(options: ServeOptions, demo_set: Path) -> None:
    with watched(options) as served:
        served.wait_for({"video1.mp4", "video2.mp4"}, "up to date")
        away = served.folder.rename(served.folder.with_name("away"))
        served.wait_for({"video1.mp4", "video2.mp4"}, "is gone: bring it back")
        served.folder.mkdir()
        served.wait_for({"video1.mp4", "video2.mp4"}, "holds no video files any more: the gallery stays as it was")
        served.folder.rmdir()
        away.rename(served.folder)
        served.wait_for({"video1.mp4", "video2.mp4"}, "up to date")
        drop(demo_set, served.folder, 3)
        served.wait_for({"video1.mp4", "video2.mp4", "video3.mp4"}, "up to date")


@pytest.mark.long
@pytest.mark.parametrize("place", ["memory", "disk"])
def test_the_index_of_candidates_follows(options: ServeOptions, demo_set: Path, tmp_path: Path, place: str) -> None:
    index = tmp_path / "index" if place == "disk" else None
    with watched(replace(options, candidates=2, top=2, index=index)) as served:
        drop(demo_set, served.folder, 3)
        (served.folder / "video1.mp4").unlink()
        served.wait_for({"video2.mp4", "video3.mp4"}, "up to date")
        # Fewer videos than candidates: the server goes on with what it had, and says why.
        (served.folder / "video2.mp4").unlink()
        served.wait_for({"video2.mp4", "video3.mp4"}, "--candidates 2: the gallery has 1 videos")
        drop(demo_set, served.folder, 4)
        served.wait_for({"video3.mp4", "video4.mp4"}, "up to date")


@pytest.mark.long
def test_an_extraction_that_is_killed_is_said_and_tried_again(
    options: ServeOptions, demo_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.watch.watcher.RETRY_S", 1.0)
    seen: list[int] = []
    with watched(options) as served:
        served.wait_for({"video1.mp4", "video2.mp4"}, "up to date")
        for number in range(3, 20):
            drop(demo_set, served.folder, number)

        def killed() -> bool:
            """Kill the process at the first sign of it."""
            if not seen:
                for child in alive("-P", str(os.getpid()), "-f", "spawn_main"):
                    os.kill(child, signal.SIGKILL)
                    seen.append(child)
            return "the extraction ended with status -9" in served.watch()

        wait_until(killed, "the page says that the extraction was killed")
        wait_until(lambda: "up to date" in served.watch(), "the next attempt succeeds")
        assert len(FeatureCache(options.cache).names("videos")) == 19


@pytest.mark.long
@pytest.mark.parametrize("signals", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_is_stopped_ends_its_extraction(options: ServeOptions, demo_set: Path, signals: signal.Signals) -> None:
    folder = options.cache.parent / "videos"
    for number in range(3, 40):
        drop(demo_set, folder, number)
    command = [sys.executable, "-m", "search.serve", "--cache", str(options.cache), "--run", options.run, "--port", "0", "--device", "cpu"]
    command += ["--watch", "--watch-every", "0.1"]
    # In a process group of its own, all of which the terminal's Control-C would reach.
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        found = re.search(r"http://\S+/", line)
        assert found, line
        served = Served(folder, found[0])
        wait_until(lambda: "reading" in served.watch(), "it reads")
        if signals == signal.SIGINT:
            os.killpg(server.pid, signals)
        else:
            server.send_signal(signals)
        _, errors = server.communicate(timeout=60)
        assert server.returncode == 130
        assert errors.count("\n") == 1, errors
        assert errors.startswith("interrupted; the server has stopped"), errors
    wait_until(lambda: not alive("-g", str(server.pid)), "nothing of the process group is left")
    with pytest.raises(URLError):
        served.page()
    # The cache is sound, and the next extraction finishes it.
    plain = ExtractOptions(folder, options.cache, device="cpu", quiet=True)
    extract.main(plain)
    assert len(FeatureCache(options.cache).listings.gallery()) == 39


def test_a_source_is_extracted_again_as_it_was(options: ServeOptions) -> None:
    (found,) = find_folders(options)
    assert (found.name, found.path) == ("videos", options.cache.parent / "videos")
    assert found.extraction.time_limit == 77
    assert found.extraction.workers == 1
    recorded = options.cache / "options-videos.yaml"
    assert read_options(recorded, ExtractOptions, "python -m extract")["time_limit"] == 77
    recorded.unlink()  # a cache of an earlier version
    assert find_folders(options)[0].extraction.time_limit == ExtractOptions.time_limit


def test_what_cannot_be_watched_is_refused_at_the_start(options: ServeOptions, cache_path: Path, tmp_path: Path, demo_set: Path) -> None:
    merged = tmp_path / "merged.h5"
    merge(MergeOptions(options.cache, merged))
    videos = options.cache.parent / "videos"

    def refused(message: str, **changes: object) -> None:
        with pytest.raises(UserError, match=message):
            find_folders(replace(options, **changes))  # type: ignore[arg-type]

    refused("is a merged one: name the folder that it was merged from", cache=merged)
    refused("--watch: --cache s3://bucket/videos is in a store", cache=Path("s3://bucket/videos"))
    refused("has demo \\(demo\\): extract a folder without annotations", cache=cache_path)
    refused("--watch brings an index of faiss up to date, not a collection", engine="milvus", uri="http://localhost:19530")
    refused("--all searches what is gone as well", all=True)
    refused("--watch-every 0 must be a number of seconds above 0", watch_every=0.0)
    refused("has videos \\(folder\\): extract a folder without annotations", name="other")
    videos.rename(tmp_path / "moved")
    refused("the folder of videos, is not there: name its new place with --videos")
    assert find_folders(replace(options, videos=tmp_path / "moved"))[0].path == tmp_path / "moved"
    shutil.copytree(tmp_path / "moved", tmp_path / "second")
    extract.main(ExtractOptions(tmp_path / "second", options.cache, device="cpu", quiet=True))
    refused("has several: choose one with --name second|videos", videos=tmp_path / "moved")
