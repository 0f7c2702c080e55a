"""The benchmark of decoders: every reader takes the frames that this project takes, and a missing library is a row that says so."""

import importlib
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.decoders.clips import RATE, make_clip
from benchmarks.decoders.options import DecodersOptions
from benchmarks.decoders.processes import ReaderFailed, ReaderProcess, link_libraries
from benchmarks.decoders.readers import READERS, SIDE
from benchmarks.decoders.report import WORKERS, main
from data.base.errors import UserError
from extract.decode.sample import Sampling, sample_frames

SECONDS = [0.0, 1.0, 2.0]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 s with a cut after 2 s."""
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", 64, 48, 3, first=0)


def test_a_clip_has_scenes_and_sound(clip: Path) -> None:
    frames = sample_frames(clip, Sampling(RATE), lambda image: np.asarray(image).astype(np.int16)).pictures
    assert len(frames) == 3 * RATE
    changes = [float(np.abs(later - frame).mean()) for frame, later in pairwise(frames)]
    assert max(range(len(changes)), key=changes.__getitem__) == 2 * RATE - 1
    assert b"mp4a" in clip.read_bytes()


# Those two need a process of their own: PyAV's workers live as long as it, and torchcodec finds its libraries there.
@pytest.mark.parametrize("name", [name for name in READERS if name not in ("this project, PyAV", "torchcodec")])
def test_every_reader_takes_the_same_frames(clip: Path, name: str) -> None:
    module, make = READERS[name]
    read = make(pytest.importorskip(module), 3)
    expected = READERS["this project, ffmpeg"][1](None, 3)(clip, SECONDS)
    found = read(clip, SECONDS)
    assert [frame.shape for frame in found] == [(SIDE, SIDE, 3)] * 3
    for frame, other in zip(found, expected, strict=True):
        assert np.abs(frame.astype(np.int16) - other).mean() < 0.5


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ReaderFailed, match=r"^not installed: pip install -r benchmarks/requirements\.txt$"):
        ReaderProcess("decord2", 12, tmp_path)


def test_libraries_are_linked_under_their_usual_names(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed: requirements-pyav.txt")
    names = {link.name.partition(".so.")[0] for link in link_libraries(tmp_path / "libraries").iterdir()}
    assert {"libavcodec", "libavformat", "libavutil", "libswscale"} <= names


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"clips": -1}, "--clips -1: must be at least 0"),
        ({"clips": 0, "large": 0}, "one of them must be at least 1"),
        ({"repeats": 0}, "--repeats 0: must be at least 1"),
        ({"videos": Path("none")}, "--videos none: must be a folder of videos"),
    ],
)
def test_options_that_leave_nothing_to_measure_are_refused(tmp_path: Path, options: dict[str, int | Path], said: str) -> None:
    with pytest.raises(UserError, match=said):
        main(DecodersOptions(**options, out=tmp_path / "out.json"))  # type: ignore[arg-type]


@pytest.mark.long
def test_rows_are_printed_and_written(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = main(DecodersOptions(videos=clip.parent, repeats=1, out=tmp_path / "out.json"))
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert rows == json.loads(out.read_text())["rows"]
    assert [(row["decoder"], row["workers"]) for row in rows] == [(name, workers) for workers in WORKERS for name in READERS]
    for row in rows:
        assert row.get("note", "").startswith(("not installed: ", "failed: ")) or (row["wall s"] > 0 and row["equal frames"] == 1)
    assert all("note" not in row for row in rows if row["decoder"] == "this project, ffmpeg")
