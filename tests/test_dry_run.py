"""A dry run says what an extraction would take, and leaves nothing behind."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import extract
from data.base.errors import UserError
from extract import ExtractOptions
from extract.encode.clip import BATCH


def foretell(options: ExtractOptions, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    extract.main(replace(options, dry_run=True, json=True))
    foretold: dict[str, Any] = json.loads(capsys.readouterr().out)
    return foretold


@pytest.mark.long
def test_disk_is_foretold_and_nothing_is_written(
    own_cache_options: ExtractOptions, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.plan.dry_run.MEASURED_VIDEOS", 16)
    before = foretell(own_cache_options, capsys)
    assert not own_cache_options.cache.exists()
    assert (before["videos_to_do"], before["measured_videos"], before["measured_failed"]) == (62, 16, 0)
    assert before["measured_texts"] == 4 * BATCH
    assert before["seconds"] > 0
    assert (before["complete"], before["missing"], before["splits"]["test"]["videos_present"]) == (True, [], 12)
    assert before["memory_bytes"] > before["disk_bytes"]
    with_pixels = foretell(replace(own_cache_options, store_pixels=True), capsys)
    extract.main(replace(own_cache_options, json=True))
    assert before["picture_bytes"] == pytest.approx(json.loads(capsys.readouterr().out)["picture_bytes"], rel=0.2)
    pixels = with_pixels["picture_bytes"] - before["picture_bytes"]
    assert pixels > before["picture_bytes"]
    assert with_pixels["disk_bytes"] - before["disk_bytes"] == pixels
    written = sum(path.stat().st_size for path in own_cache_options.cache.iterdir())
    # Beside features and pictures, a part holds names and offsets.
    assert 0.8 * written < before["disk_bytes"] < 1.1 * written
    files = {path.name: path.stat().st_mtime_ns for path in own_cache_options.cache.iterdir()}
    after = foretell(own_cache_options, capsys)
    assert (after["videos_to_do"], after["texts_to_do"], after["seconds"], after["disk_bytes"]) == (0, 0, 0, 0)
    assert foretell(replace(own_cache_options, store_pixels=True), capsys)["videos_to_do"] == 62
    assert {path.name: path.stat().st_mtime_ns for path in own_cache_options.cache.iterdir()} == files
    with pytest.raises(UserError, match="other settings"):
        foretell(replace(own_cache_options, fps=2.0), capsys)


def test_it_ends_as_the_extraction_would_begin(
    own_cache_options: ExtractOptions, demo_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "video0.mp4").symlink_to(demo_set / "videos" / "video0.mp4")
    (videos / "broken.mp4").write_text("no video")
    names = ["video0.mp4", "broken.mp4", "gone.mp4"]
    pd.DataFrame({"video": names, "caption": "a ring", "split": "test"}).to_csv(tmp_path / "table.csv", index=False)
    options = replace(
        own_cache_options, dataset="table", videos=videos, annotations=tmp_path / "table.csv", dry_run=True, quiet=False, follow_links=True
    )
    with pytest.raises(UserError, match="1 of 3 videos have no file") as refusal:
        extract.main(options)
    assert refusal.value.listed == ("missing: gone.mp4",)
    said = capsys.readouterr()
    assert "test 2 of 3 videos and 3 of 3 captions are there" in said.err
    assert f"failed: {videos / 'broken.mp4'}" in said.err
    assert [line.split(":")[0] for line in said.out.splitlines()] == ["dry run", "time", "disk", "memory"]
    assert extract.main(replace(options, allow_missing=True)) == options.cache
    assert not options.cache.exists()
