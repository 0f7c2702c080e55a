"""What --tensorboard writes, read back with TensorBoard's own reader."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import train_head
from data.base.errors import UserError
from tests.training_runs import stop_at
from train_head import TrainOptions


@pytest.fixture
def options(cache_path: Path, tmp_path: Path) -> TrainOptions:
    """Ten steps: 5 an epoch."""
    return TrainOptions(
        cache=cache_path, out=tmp_path / "run", head="mean", epochs=2, batch_size=32, checkpoint_steps=3, device="cpu", quiet=True
    )


def test_scalars_of_a_resumed_run_are_those_of_its_log(options: TrainOptions) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed")
    options = replace(options, tensorboard=True)
    # Step 8 is told of and then lost: the last checkpoint is from the end of the first epoch.
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 9)
        with pytest.raises(KeyboardInterrupt):
            train_head.main(options)
    log = pd.read_csv(train_head.main(replace(options, resume=True)) / "log.csv")
    events = reader.EventAccumulator(str(options.out / "tensorboard"))
    events.Reload()
    for name in ("loss", "contrastive", "csc"):
        of_steps = events.Scalars(f"train/{name}")
        assert [event.step for event in of_steps] == list(range(1, 15))
        values = [event.value for event in of_steps]
        assert [sum(values[:7]) / 7, sum(values[7:]) / 7] == pytest.approx(log[name][1:].tolist(), rel=1e-6)
    rates = [event.value for event in events.Scalars("train/lr")]
    assert max(rates) == pytest.approx(options.lr)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    for name in ("text_to_video R@1", "video_to_text MnR", "RSum"):
        of_epochs = [(event.step, event.value) for event in events.Scalars(f"val/{name}")]
        assert of_epochs == [(7 * epoch, pytest.approx(value)) for epoch, value in enumerate(log[name])]


def test_without_the_option_there_is_none(options: TrainOptions) -> None:
    assert not (train_head.main(options) / "tensorboard").exists()


def test_where_tensorboard_is_missing_nothing_is_begun(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train_head.training.tensorboard_log.find_spec", lambda _: None)
    with pytest.raises(UserError, match="--tensorboard needs the package tensorboard: install it with pip install tensorboard"):
        train_head.main(replace(options, tensorboard=True))
    assert not options.out.exists()
