"""Extraction of files as the world has them: what fails is listed and remembered, and the rest goes on."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest

import extract
from data.base.errors import UserError
from data.cache import FeatureCache
from data.cache.hdf5 import open_file
from data.cache.layout import FAILURES_FILE
from extract import ExtractOptions
from extract.failures import read_failures
from extract.plan.digest import file_digest
from tests.conftest import DEMO_CLIP, ROOT
from tests.decoding import hanging_decoder
from tests.processes import is_alive
from tests.videos import cut_video, numbered_video
from tests.waiting import wait_until

BUDGET = 10**9


@pytest.fixture
def options(tmp_path: Path) -> ExtractOptions:
    """A plain folder of two videos."""
    for i in range(2):
        numbered_video(tmp_path / "videos" / f"good{i}.mp4", 10 + 5 * i, 5)
    return ExtractOptions(videos=tmp_path / "videos", cache=tmp_path / "cache", model=DEMO_CLIP, device="cpu", quiet=True, json=True)


def run(options: ExtractOptions, capsys: pytest.CaptureFixture[str], **changes: object) -> tuple[int, int]:
    """Videos extracted and failed."""
    capsys.readouterr()
    extract.main(replace(options, **changes))  # type: ignore[arg-type]
    summary = json.loads(capsys.readouterr().out)
    return summary["videos_extracted"], summary["videos_failed"]


def shell(options: ExtractOptions, *more: str, **environment: str) -> subprocess.Popen[str]:
    command = ["--videos", options.videos, "--cache", options.cache, "--model", options.model, "--device", "cpu", "--quiet", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "extract", *map(str, command)],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_failures_are_remembered_and_tried_again_on_demand(options: ExtractOptions, capsys: pytest.CaptureFixture[str]) -> None:
    (options.videos / "text.mp4").write_text("no video")
    (options.videos / "empty.mp4").touch()
    os.mkfifo(options.videos / "pipe.mp4")
    cut_video(options.videos / "cut.mp4")
    assert run(options, capsys) == (2, 4)
    listed = pd.read_csv(options.cache / FAILURES_FILE, keep_default_na=False).set_index("video_id")
    assert listed.index.tolist() == sorted(listed.index)
    assert "Invalid data" in listed["last_words"]["text.mp4"]
    assert listed["reason"]["empty.mp4"] == "the file is empty"
    assert listed["reason"]["pipe.mp4"] == "not a regular file"
    assert int(listed["frames_expected"]["cut.mp4"]) == 20
    assert 0 < int(listed["frames_decoded"]["cut.mp4"]) < 20
    before = (options.cache / FAILURES_FILE).stat().st_mtime_ns, sorted(options.cache.glob("*.h5"))
    (options.videos / "pipe.mp4").unlink()
    assert run(options, capsys) == (0, 3)
    assert sorted(options.cache.glob("*.h5")) == before[1]
    # Tried again when it can go otherwise: another file, another option.
    numbered_video(options.videos / "text.mp4", 5, 5)
    assert run(options, capsys) == (1, 2)
    assert run(options, capsys, retry_failed=True) == (0, 2)
    assert run(options, capsys, allow_partial=True) == (1, 1)
    cache = FeatureCache(options.cache)
    assert cache.videos(["cut.mp4"], BUDGET).frames.length_N.tolist() == [int(listed["frames_decoded"]["cut.mp4"])]
    expected = {}
    for name, place in cache.places("videos").items():
        with open_file(place.part.path) as file:
            expected[name] = int(file["frames_expected"][place.entry])
    assert (expected["cut.mp4"], expected["good0.mp4"]) == (20, 0)
    (options.videos / "empty.mp4").unlink()
    assert run(options, capsys) == (0, 0)
    # A video that is no longer there is no reason to forget why it failed.
    assert [failure.video_id for failure in read_failures(options.cache).values()] == ["empty.mp4", "pipe.mp4"]


def test_a_changed_file_is_extracted_again(options: ExtractOptions, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(options, capsys) == (2, 0)
    old = FeatureCache(options.cache).videos(["good0.mp4"], BUDGET).frames
    numbered_video(options.videos / "good0.mp4", 35, 5)
    assert run(options, capsys) == (1, 0)
    new = FeatureCache(options.cache).videos(["good0.mp4"], BUDGET).frames
    assert (old.length_N.tolist(), new.length_N.tolist()) == ([2], [7])


def test_links_out_of_the_folder_are_refused(options: ExtractOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outside = numbered_video(tmp_path / "outside.mp4", 5, 5)
    (options.videos / "out.mp4").symlink_to(outside)
    (options.videos / "within.mp4").symlink_to("good0.mp4")
    assert run(options, capsys) == (3, 1)
    failure = read_failures(options.cache)["out.mp4"]
    assert "--follow-links" in failure.reason
    assert run(options, capsys, follow_links=True) == (1, 0)
    assert not (options.cache / FAILURES_FILE).exists()


def test_every_name_is_extracted(options: ExtractOptions, capsys: pytest.CaptureFixture[str]) -> None:
    names = [b"with space.mp4", b"-dash.mp4", b"co:lon.mp4", b"quote'\".mp4", b"new\nline.mp4", b"caf\xe9.mp4", "ünï.mp4".encode()]
    for name in names:
        shutil.copy(options.videos / "good0.mp4", options.videos / os.fsdecode(name))
    assert run(options, capsys) == (len(names) + 2, 0)
    cache = FeatureCache(options.cache)
    assert ("videos", "caf\\xe9.mp4") in cache
    assert {name.decode() for name in names if name != b"caf\xe9.mp4"} < set(cache.listings.videos("videos")["file"])


@pytest.mark.long
def test_a_hanging_decoder_is_listed(options: ExtractOptions, tmp_path: Path) -> None:
    program, _ = hanging_decoder(tmp_path)
    process = shell(options, "--time-limit", "0.3", IMAGEIO_FFMPEG_EXE=str(program))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3, said
    assert {failure.reason for failure in read_failures(options.cache).values()} == {"not done after 0.3 s (--time-limit)"}


@pytest.mark.long
def test_sigterm_ends_as_an_interrupt_does_even_where_decoders_hang(options: ExtractOptions, tmp_path: Path) -> None:
    program, child = hanging_decoder(tmp_path)
    process = shell(options, "--workers", "1", IMAGEIO_FFMPEG_EXE=str(program))
    wait_until(child.exists, "a decoder that hangs")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said == "interrupted; run the same command again to go on\n"
    assert not is_alive(int(child.read_text()))


@pytest.mark.exact
@pytest.mark.parametrize("max_frames", [3, "all"])
def test_processes_share_the_work(options: ExtractOptions, capsys: pytest.CaptureFixture[str], max_frames: int | Literal["all"]) -> None:
    (options.videos / "text.mp4").write_text("no video")
    for i in range(2, 6):
        numbered_video(options.videos / f"good{i}.mp4", 5 * i + 180 * (i == 5), 5)
    together = replace(options, cache=options.cache.with_name("together"), max_frames=max_frames)
    assert run(together, capsys) == (6, 1)
    assert [run(options, capsys, shard=f"{i}/3", max_frames=max_frames) for i in range(3)] == [(2, 1), (2, 0), (2, 0)]
    assert [path.name for path in options.cache.glob("failures*")] == ["failures-0-of-3.csv"]
    assert run(options, capsys, max_frames=max_frames) == (0, 1)
    assert [path.name for path in options.cache.glob("failures*")] == [FAILURES_FILE]
    names = [f"good{i}.mp4" for i in range(6)]
    first, second = (FeatureCache(path).videos(names, BUDGET) for path in (options.cache, together.cache))
    for i in range(6):
        np.testing.assert_array_equal(first.frames.gather([i])[0], second.frames.gather([i])[0])
        assert first.seconds[i].tolist() == second.seconds[i].tolist()


@pytest.mark.parametrize("shard", ["4/4", "1", "0/0", "-1/2", "a/b"])
def test_a_share_that_is_none_is_refused(options: ExtractOptions, shard: str) -> None:
    with pytest.raises(UserError, match="--shard"):
        extract.main(replace(options, shard=shard))


def test_a_line_of_progress_has_counts_rates_and_time_left(
    options: ExtractOptions, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where stderr is no terminal; here a line for every video."""
    monkeypatch.setattr("data.base.progress.SECONDS_BETWEEN_LINES", 0.0)
    # A fast machine is done before a rate would be shown.
    monkeypatch.setattr("data.base.progress.SHORTEST_S", 0.0)
    monkeypatch.setattr("extract.stage.VIDEOS_A_PART", 1)
    (options.videos / "text.mp4").write_text("no video")
    numbered_video(options.videos / "good2.mp4", 100, 5)
    extract.main(replace(options, quiet=False, max_frames="all"))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("videos: ")]
    assert len(lines) == 4
    last = r"videos: 100%.* 4/4 .*videos/s, 1 failed, 0 left, decode \d+, encode \d+ frames/s, write \d+ MiB/s\]"
    assert re.fullmatch(last, lines[-1]), lines[-1]
    assert re.search(r" 1/4 \[\d\d:\d\d.*, [01] failed, 3 left", lines[0]), lines[0]
    assert re.search(r" 3/4 \[\d\d:\d\d<\d\d:\d\d, .*, [01] failed, 1 left", lines[2]), lines[2]


@pytest.mark.parametrize("decoder", ["ffmpeg", "pyav"])
def test_a_file_that_only_has_another_time_is_left_alone(
    options: ExtractOptions, decoder: Literal["ffmpeg", "pyav"], capsys: pytest.CaptureFixture[str]
) -> None:
    if decoder == "pyav":
        pytest.importorskip("av", reason="PyAV is not installed: requirements-pyav.txt")
    options = replace(options, decoder=decoder)
    numbered_video(options.videos / "long.mp4", 115, 5)
    (options.videos / "text.mp4").write_text("no video" * 50_000)
    for changes in ({}, {"segment": 8.0}):
        assert run(options, capsys, **changes) == (3, 1)
        for path in options.videos.iterdir():
            os.utime(path, (1, 1))
        assert run(options, capsys, **changes) == (0, 1)
        for path in options.videos.iterdir():
            shutil.copyfile(path, options.videos.with_name("copy"))
            options.videos.with_name("copy").rename(path)
        assert run(options, capsys, **changes) == (0, 1)
    # Of the same size, but for one byte at the beginning, in the middle or at the end the same.
    for name, place in (("good0.mp4", -1), ("good1.mp4", 0), ("text.mp4", 200_000)):
        path = options.videos / name
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)
    run(options, capsys)
    failed, cache = read_failures(options.cache), FeatureCache(options.cache)
    for name in ("good0.mp4", "good1.mp4", "text.mp4"):
        path = options.videos / name
        size, digest = path.stat().st_size, partial(file_digest, path)
        assert failed[name].file_digest == digest() if name in failed else cache.is_current(name, size, 1, digest=digest)


def test_lists_of_failures_without_a_digest_are_read(options: ExtractOptions, capsys: pytest.CaptureFixture[str]) -> None:
    """As earlier versions wrote them: size and time decide."""
    (options.videos / "text.mp4").write_text("no video")
    assert run(options, capsys) == (2, 1)
    listed = options.cache / FAILURES_FILE
    frame = pd.read_csv(listed, keep_default_na=False, dtype=str).drop(columns="file_digest")
    frame.to_csv(listed, index=False)
    assert run(options, capsys) == (0, 1)
    assert read_failures(options.cache)["text.mp4"].file_digest == ""
    os.utime(options.videos / "text.mp4", (1, 1))
    assert run(options, capsys) == (0, 1)
    assert read_failures(options.cache)["text.mp4"].file_digest != ""


@pytest.mark.parametrize("size", [0, 1, 65_536, 100_000, 200_000, 1_000_000])
def test_a_digest_is_of_three_places(tmp_path: Path, size: int) -> None:
    content = np.random.default_rng(size).bytes(size)
    (tmp_path / "a").write_bytes(content)
    middle = max((size - 65_536) // 2, 0)
    expected = hashlib.sha256(content[:65_536] + content[middle : middle + 65_536] + content[max(size - 65_536, 0) :]).hexdigest()
    assert file_digest(tmp_path / "a") == expected
