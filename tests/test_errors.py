"""What errors say: whole lines, and lists that end."""

import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import extract
from data.base.errors import LONGEST_REASON, MAX_LISTED, UserError, first_of, one_line
from data.cache import FeatureCache
from data.check import CheckOptions, check
from data.verify import VerifyOptions, verify
from extract import ExtractOptions
from extract.failures import read_failures
from tests.conftest import DEMO_CLIP
from tests.part_writer import entry, open_cache
from train_head.scoring.splits import load_split


@given(st.text())
def test_a_reason_is_one_line_and_ends_with_a_word(said: str) -> None:
    line = one_line(OSError(said))
    assert len(line) <= LONGEST_REASON
    assert line
    assert len(line.splitlines()) == 1
    words = said.split()
    if len(" ".join(words)) > LONGEST_REASON and all(len(word) < LONGEST_REASON // 2 for word in words):
        *kept, end = line.split()
        assert end == "..."
        assert kept == words[: len(kept)]


@pytest.mark.parametrize(("count", "lines"), [(0, 0), (1, 1), (10, 10), (11, 11), (2345, 11)])
def test_a_list_ends_after_ten(count: int, lines: int) -> None:
    shown = first_of([f"missing: {i}" for i in range(count)], "the file has all")
    assert len(shown) == lines
    assert shown[:MAX_LISTED] == [f"missing: {i}" for i in range(min(count, MAX_LISTED))]
    if count > MAX_LISTED:
        assert shown[-1] == f"and {count - MAX_LISTED:,} more: the file has all"


def _captions(video_ids: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"video_id": video_ids, "caption": "a ring", "split": "test"})


def test_verify_names_the_first_ten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twelve of thirteen parts are damaged, with two videos each."""
    cache = open_cache(tmp_path)
    for i in range(0, 26, 2):
        cache.write_videos([entry(i), entry(i + 1)])
    cache.write_table("one", _captions([f"v{i}" for i in range(26)]))
    damaged = sorted(tmp_path.glob("videos-*.h5"))[:12]
    for part in damaged:
        part.write_bytes(part.read_bytes()[:-1])
    assert verify(VerifyOptions(tmp_path)) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[:10] == [f"damaged: {part}" for part in damaged[:10]]
    assert lines[10] == "and 2 more: --json lists all"
    assert all(line.startswith("to extract again: v") for line in lines[11:21])
    assert lines[21] == "and 14 more: --json lists all"
    assert len(lines) == 23
    assert verify(VerifyOptions(tmp_path, json=True)) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["damaged"] == [str(part) for part in damaged]
    assert len(found["videos_to_extract"]) == 24


def test_check_names_the_first_ten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.csv"
    table.write_text("video,caption,split\n" + "".join(f"{n:03}.mp4,,test\n" for n in range(50)))
    assert check(CheckOptions(videos=tmp_path, annotations=table)) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[-23:-12] == [*(f"missing: {n:03}.mp4" for n in range(10)), "and 40 more: --json lists all"]
    assert lines[-12:-1] == [*(f"empty caption of: {n:03}.mp4" for n in range(10)), "and 40 more: --json lists all"]
    assert check(CheckOptions(videos=tmp_path, annotations=table, json=True)) == 3
    assert len(json.loads(capsys.readouterr().out)["missing"]) == 50


def test_an_extraction_names_the_first_ten_that_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for i in range(13):
        (videos / f"v{i:02}.mp4").write_text("no video")
    extract.main(ExtractOptions(videos=videos, cache=tmp_path / "cache", model=DEMO_CLIP, device="cpu", quiet=True))
    *listed, more = capsys.readouterr().err.splitlines()
    assert [line.partition(": no video")[0] for line in listed] == [f"failed: {videos}/v{i:02}.mp4" for i in range(10)]
    assert more == f"and 3 more: {tmp_path}/cache/failures.csv lists all"
    assert len(read_failures(tmp_path / "cache")) == 13


def test_missing_features_say_how_many_failed(tmp_path: Path) -> None:
    """v0 is there, v1 failed, v2 was not extracted."""
    cache = open_cache(tmp_path)
    cache.write_videos([entry(0)])
    videos = _captions(["v0", "v1", "v2"])[["video_id", "split"]].assign(file="a.mp4", start=0.0, end=1.0, failed=[False, True, False])
    cache.write_table("one", _captions(["v0", "v1", "v2"]), videos)
    with pytest.raises(UserError) as refusal:
        load_split(FeatureCache(tmp_path), "test", None, 10**9)
    assert f"1 of these 3 videos failed in the extraction ({tmp_path}/failures.csv says why): run extract with --retry-failed" in str(
        refusal.value
    )
    assert refusal.value.listed == ("failed: v1", "without features: v0", "without features: v2")
