"""The measuring steps of `benchmarks.gpu`, small and on a CPU: that they run, and that figures are of what their names say."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks.gpu import decoding, extraction, scoring, training
from benchmarks.gpu.place import Place
from extract.decode.frames import DecodeFailed, Sampled
from tests.videos import frame_number, numbered_video
from train_head.heads import HEADS


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(torch.device("cpu"), small=True, folder=tmp_path)


def numbers(figures: dict[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """Every number of nested figures, with its names."""
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{above}{name}, ")
        else:
            yield f"{above}{name}", value


def require_sensible(figures: dict[str, Any]) -> None:
    for name, number in numbers(figures):
        assert math.isfinite(number), name
        assert number > 0 or "difference" in name or "share" in name or "MiB" in name, name


@pytest.mark.long
def test_every_head_is_scored_beside_the_products_and_the_published_formulation(place: Place) -> None:
    outcome = scoring.matrices(place)
    rows = outcome.figures["40 x 30"]
    assert list(rows)[:2] == ["two products", "published formulation"]
    assert rows.keys() == {"two products", "published formulation", "glccl, ranks counted", *HEADS}
    require_sensible(outcome.figures)
    assert rows["glccl"]["largest difference from the published formulation"] < 1e-3
    for name in HEADS:
        part = name in ("tight", "joint")
        assert (rows[name]["texts timed"] < 40) == (rows[name]["videos timed"] < 30) == part, name
    assert list(outcome.holds.values()) == [True, True]
    assert outcome.remarks == []


def test_heads_that_the_time_does_not_suffice_for_are_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "TIME_LIMIT_S", 0)
    monkeypatch.setattr(scoring, "SMALL", [(8, 6)])
    outcome = scoring.matrices(place)
    assert outcome.figures["8 x 6"].keys() == {"two products", "published formulation"}
    (remark,) = outcome.remarks
    assert remark.startswith("8 x 6: no time was left for glccl, ")
    assert "tight" in remark


def test_a_head_without_enough_memory_does_not_end_the_step(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(place: Place, head: Any, *_: Any) -> dict[str, float]:
        if head.name == "mean":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {scoring.SECONDS: 1.0}

    monkeypatch.setattr(scoring, "HEADS", {name: HEADS[name] for name in ("mean", "glccl")})
    monkeypatch.setattr(scoring, "measure_head", measured)
    monkeypatch.setattr(scoring, "SMALL", [(8, 6)])
    outcome = scoring.matrices(place)
    assert outcome.holds["8 x 6: every head fits into memory"] is False
    assert outcome.remarks == ["8 x 6: mean ran out of memory"]
    assert outcome.figures["8 x 6"]["glccl"][scoring.SECONDS] == 1


def test_caption_lengths_are_like_those_of_msrvtt() -> None:
    lengths = scoring.caption_lengths(10_000)
    assert min(lengths) >= 4
    assert max(lengths) == 32
    assert 11 < np.mean(lengths) < 13


def test_the_split_has_the_shape_of_msrvtt() -> None:
    split = training.make_split(3, 2)
    assert len(split.texts.texts) == 6
    assert split.answers.tolist() == [0, 0, 1, 1, 2, 2]
    assert split.videos.frames.length_N.tolist() == [12, 12, 12]
    assert split.texts.words.dtype == split.videos.frames.dtype == np.float16
    frame_RD, _ = split.videos.frames.gather([0, 1, 2])
    assert frame_RD.norm(dim=1).mean() == pytest.approx(10, rel=0.02)


@pytest.mark.long
@pytest.mark.parametrize("reach", [60.0, 0.0])
def test_training_runs_whole_unless_it_would_take_too_long(place: Place, reach: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "REACH_S", reach)
    outcome = training.full_size(place)
    names = ["with the temporal encoder", "without a temporal encoder"]
    assert list(outcome.figures) == names
    require_sensible(outcome.figures)
    assert all(("whole run, seconds" in outcome.figures[name]) == (reach > 0) for name in names)
    assert [remark.split(":")[0] for remark in outcome.remarks] == ([] if reach else names)
    assert outcome.holds == {}


@pytest.mark.long
def test_encoders_are_measured_beside_the_bare_one(place: Place) -> None:
    outcome = extraction.encoders(place)
    assert list(outcome.figures) == ["demo, fp32", "demo, bf16"]
    require_sensible(outcome.figures)
    assert outcome.figures["demo, fp32"]["largest difference of unit features"] < 1e-6
    assert outcome.figures["demo, bf16"]["largest difference of unit features"] < 0.01


def test_a_batch_that_memory_does_not_suffice_for_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(image_NCHW: Tensor) -> Tensor:
        if len(image_NCHW) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return image_NCHW.mean(dim=(2, 3))

    monkeypatch.setattr(extraction, "BATCHES_SMALL", (2, 4, 8))
    row, too_large = extraction.bare_rates(place, encode, torch.ones(2, 3, 4, 4))
    assert list(row) == ["bare encoder, batch 2, images a second", "bare encoder, batch 4, images a second"]
    assert too_large == 8


@pytest.mark.long
def test_extraction_is_measured_with_several_numbers_of_workers(place: Place) -> None:
    outcome = extraction.workers(place)
    assert {name: row["videos"] for name, row in outcome.figures.items()} == {"1 workers": 2, "4 workers": 4}
    require_sensible({name: {key: value for key, value in row.items() if "seconds" not in key} for name, row in outcome.figures.items()})
    assert all(0 <= row["share of time the encoder waits"] < 1 for row in outcome.figures.values())


def test_figures_of_an_extraction_are_those_of_its_summary() -> None:
    seconds = {"encode_seconds": 2.0, "encoder_wait_seconds": 6.0, "encoder_start_seconds": 1.5, "write_seconds": 0.5}
    row = extraction.of_summary({"videos_extracted": 20, "frames": 240, "decode_seconds": 8.0, "process_seconds": 15.0, **seconds})
    assert row["videos a second"] == 2
    assert row["share of time the encoder waits"] == 0.75
    assert row["frames a second while the encoder computes"] == 120
    assert row["frames a second of one decoding worker"] == 30


def test_a_clip_that_is_made_has_texture_motion_and_cuts() -> None:
    raw = extraction.moving_texture(80, seed=1)
    frame_THWC = np.frombuffer(raw, dtype=np.uint8).reshape(80, extraction.HEIGHT, extraction.WIDTH, 3)
    assert frame_THWC[0].std() > 20
    step_T = np.abs(np.diff(frame_THWC[:, ::8, ::8].astype(np.int64), axis=0)).mean(axis=(1, 2, 3))
    assert step_T.min() > 1
    assert step_T.argmax() == extraction.SCENE_S * extraction.FPS - 1
    # The view moves by two rows and three columns.
    assert np.array_equal(frame_THWC[1, :-2, :-3], frame_THWC[0, 2:, 3:])


@pytest.mark.long
def test_two_decoders_are_compared(place: Place) -> None:
    pytest.importorskip("av")
    outcome = decoding.cuda_decoding(place)
    names = ["H.264, 8 bits, 320x240", "H.264, 8 bits, 64x48"]
    assert list(outcome.figures) == [*names, f"{names[0]}, 4 at once"]
    require_sensible(outcome.figures)
    for name in names:
        row = outcome.figures[name]
        assert row["frames"] == row["frames, PyAV"] == row["frames compared"] == 2
        assert row["largest difference of a value, of 255"] == 0
        assert outcome.holds[f"{name}: PyAV gives as many frames as the CPU, at the same times"]
        assert outcome.holds[f"{name}: pixels differ by 2 of 255 on average at most"]
    left = [f"HEVC, {bits} bits, 64x48: PyAV does not decode it" for bits in (8, 10)]
    assert outcome.unconfirmed == left
    assert outcome.remarks == [f"{said}: PyAV leaves it to ffmpeg" for said in left]


def test_differences_of_frames_are_of_those_at_the_same_times() -> None:
    grey = partial(Image.new, "RGB", (4, 3))
    ours: Sampled[Image.Image] = Sampled([grey((10, 10, 10)), grey((30, 30, 35))], [0.0, 1.0])
    reference: Sampled[Image.Image] = Sampled([grey((10, 10, 10)), grey((30, 30, 30)), grey((9, 9, 9))], [0.0, 1.0, 2.0])
    row = decoding.differences(ours, reference)
    assert row["frames compared"] == 2
    # Of the six means of a colour, five are 0 and one is 5.
    assert row["mean difference of a value, of 255"] == pytest.approx(5 / 6)
    assert row["largest difference of a value, of 255"] == 5
    assert row["PSNR of the worst frame, dB"] == pytest.approx(20 * math.log10(255 / 5) + 10 * math.log10(3))
    assert decoding.alike(row)
    assert not decoding.alike(decoding.differences(ours, Sampled([grey((10, 10, 10)), grey((38, 30, 30))], [0.0, 1.0])))
    assert not decoding.alike({"frames compared": 0})
    assert "PSNR of the worst frame, dB" not in decoding.differences(reference, reference)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device decodes it")
def test_a_device_that_does_not_decode_is_told_with_the_words_of_ffmpeg(tmp_path: Path) -> None:
    video = numbered_video(tmp_path / "video.mp4", 10, 5)
    assert [frame_number(image) for image in decoding.on_cpu(video).pictures] == [0, 5]
    with pytest.raises(DecodeFailed, match=r"cuda|CUDA|hwaccel"):
        decoding.on_device(video)
