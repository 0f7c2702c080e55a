"""The head `tight`: its start, its limits, its memory, and what is said of its cost."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import train_head
from data.base.errors import UserError
from data.cache import FeatureCache
from tests.features import pad, random_features, text_batch
from train_head import TrainOptions
from train_head.heads import HeadConfig, VideoBatch, make_head
from train_head.heads.pairs.tight import TightHead
from train_head.run import check_frames, load_head
from train_head.settle import settled, settled_like, start_lines
from train_head.stage import build_head, load
from train_head.sweep import SweepOptions
from train_head.sweep.options import expand
from train_head.training.cost import say_step_cost


@pytest.fixture
def options(cache_path: Path, tmp_path: Path) -> TrainOptions:
    return TrainOptions(cache_path, tmp_path / "run", head="tight", epochs=1, batch_size=8, lr=1e-3, max_frames=3, device="cpu", quiet=True)


def test_it_starts_from_clip_s_positions_and_blocks(options: TrainOptions, cache: FeatureCache) -> None:
    parts = cache.clip_parts()
    positions = len(parts.tensors["positional_embedding"])
    torch.manual_seed(0)
    head = build_head(options, cache)
    assert isinstance(head, TightHead)
    for name, value in head.cross.state_dict().items():
        np.testing.assert_array_equal(value, parts.tensors[name])
    assert head.cross.heads == parts.heads
    assert head.temporal is None
    assert list(start_lines(settled(options, cache), cache, quiet=False)) == ["blocks of head tight: start from CLIP's text blocks"]
    # A position for every frame, and one for the sentence.
    longer = replace(options, max_frames=positions)
    assert build_head(longer, cache).config.temporal_positions == positions + 1
    assert list(start_lines(settled(longer, cache), cache, quiet=True)) == [
        f"blocks of head tight: {positions + 1} positions; {positions} are CLIP's, and 1 are added, drawn like CLIP's"
    ]
    random = build_head(replace(options, temporal_init="random"), cache)
    assert not torch.equal(random.get_parameter("cross.positional_embedding"), head.get_parameter("cross.positional_embedding"))


def test_a_run_records_what_its_options_stand_for(options: TrainOptions, cache: FeatureCache) -> None:
    run = train_head.main(options)
    record = json.loads((run / "run.json").read_text())
    chosen = {name: record["trained_with"]["options"][name] for name in ("temporal", "temporal_init")}
    assert chosen == {"temporal": "none", "temporal_init": "clip"}
    positions = len(cache.clip_parts().tensors["positional_embedding"])
    assert record["start"] == {"cross": {"from": "clip", "positions": positions, "positions_of_clip": positions, "positions_added": 0}}
    assert train_head.main(replace(options, resume=True)) == run
    assert settled_like(replace(options, cache=Path("gone")), record).temporal == "none"
    head, _ = load_head(str(run), cache, torch.device("cpu"))
    assert head.config.logit_scale > 1
    assert head.scale() == 1


@pytest.mark.parametrize("temporal", ["seq-transf", "seq-lstm"])
def test_an_encoder_in_front_is_refused(options: TrainOptions, temporal: str) -> None:
    message = f"^--temporal {temporal}: head tight reads the frames through blocks of its own: leave the option out$"
    with pytest.raises(UserError, match=message):
        train_head.main(replace(options, temporal=temporal))  # type: ignore[arg-type]
    assert not options.out.exists()
    with pytest.raises(UserError, match=message):
        make_head("tight", HeadConfig(16, 9, 100.0, max_frames=7, temporal=temporal, temporal_positions=8))


def test_a_sweep_over_heads_gives_each_its_own_encoder(options: TrainOptions, cache: FeatureCache) -> None:
    grid = expand(SweepOptions(options.cache, options.out, seeds=1, head="mean,tight"))
    assert [(run.head, settled(run, cache).temporal) for run in grid] == [("mean", "seq-transf"), ("tight", "none")]


def test_more_frames_than_positions_are_refused(options: TrainOptions) -> None:
    head = make_head("tight", HeadConfig(16, 9, 100.0, temporal_positions=8))
    check_frames(head, 7, "videos")
    message = "^videos have up to 8 frames, but head tight has 8 positions, one of them for the sentence: use --max-frames 7 or less$"
    with pytest.raises(UserError, match=message):
        check_frames(head, 8, "videos")
    with pytest.raises(UserError, match="head tight would take 20,000 frames, and 16,384 is the most"):
        train_head.main(replace(options, max_frames=20_000))
    assert not options.out.exists()


@pytest.mark.parametrize("rows", [1, 13, 40])
def test_in_pieces_scores_and_gradients_are_those_of_the_whole(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of one pair, of some videos with one text, and of several texts."""
    features = random_features(torch.Generator().manual_seed(0), [2, 3, 1, 2, 4], [3, 5, 1, 4])
    torch.manual_seed(0)
    head = make_head("tight", HeadConfig(16, 9, 100.0, max_frames=7, temporal_heads=2)).double()
    sentence_AD = [sentence.double() for sentence in features[0]]
    words, frames = ([tensor.double() for tensor in rows_] for rows_ in features[1:])

    def gradients(most: int) -> list[torch.Tensor]:
        monkeypatch.setattr("train_head.heads.pairs.pairwise.ROWS_AT_ONCE", {"cpu": most})
        scores_SAB = head.scores(head.encode_texts(text_batch(sentence_AD, words)), head.encode_videos(VideoBatch(*pad(frames))))
        parameters = [value for value in head.parameters() if value.requires_grad]
        return [scores_SAB, *torch.autograd.grad(scores_SAB.square().sum(), parameters)]

    for found, whole in zip(gradients(rows), gradients(10**6), strict=True):
        torch.testing.assert_close(found, whole)


def test_an_expensive_step_is_said_with_its_operations_before_it_starts(
    options: TrainOptions, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four texts with four videos of three frames, with the thresholds lowered to what they cost."""
    options = replace(options, batch_size=4)
    head, loaded = build_head(options, cache), load(options)
    say_step_cost(head, loaded.train, batch=4, steps=10)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("train_head.training.cost.EXPENSIVE_PAIR", 1e6)
    monkeypatch.setattr("train_head.training.cost.EXPENSIVE_STEP", 1e7)
    say_step_cost(head, loaded.train, batch=4, steps=10)
    pair = 302 * 128**2 + 210 * 128  # 70 (F + 1) + 22, and 12 (F + 1)^2 + 4 (F + 1) + 2, with F = 3
    assert re.fullmatch(
        rf"head tight: a step scores 4 x 4 pairs, {16 * pair / 1e6:.3g} MFLOP forward, and takes about \d+ s here, all 10 steps \d+ s: "
        r"a smaller --batch-size or --max-frames costs less\n",
        capsys.readouterr().err,
    )
    assert all(value.grad is None for value in head.parameters())
    say_step_cost(build_head(replace(options, head="xpool"), cache), loaded.train, batch=4, steps=10)
    assert capsys.readouterr().err == ""
