"""Fine-tuning CLIP with a head, on the pictures of a cache, and back through extraction and evaluation."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import evaluate
import extract
import train_head
from data.base.errors import UserError
from data.cache import FeatureCache
from data.cache.extraction import Extraction
from data.compute.processes import ProcessGroup
from data.metrics import Ranks
from evaluate import EvaluateOptions
from experiments.finetuning import FinetuningOptions, Measured, difference_of, figures_of, measured
from extract import ExtractOptions
from extract.encode.clip import Clip, load_clip
from tests import finetune_step
from tests.conftest import DEMO_CLIP, ROOT
from tests.processes import launch
from tests.training_runs import logged, stop_at
from train_head import TrainOptions
from train_head.scoring.splits import load_split
from train_head.stage import build_head, load, make_trainer
from train_head.training.finetune import FinetuneTrainer, load_trained, save_clip
from train_head.training.towers import towers, train_above

BUDGET = 10**9


@pytest.fixture(scope="module")
def pixel_cache(extract_options: ExtractOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small cache with the pictures that the encoder saw."""
    return extract.main(replace(extract_options, cache=tmp_path_factory.mktemp("pixels") / "cache", store_pixels=True, thumbnails=False))


@pytest.fixture
def options(pixel_cache: Path, tmp_path: Path) -> TrainOptions:
    """Five steps an epoch."""
    return TrainOptions(
        cache=pixel_cache,
        out=tmp_path / "run",
        finetune=True,
        clip_lr=1e-4,
        lr=1e-3,
        max_frames=2,
        epochs=1,
        batch_size=32,
        checkpoint_steps=2,
        device="cpu",
        quiet=True,
    )


def trainer_of(options: TrainOptions) -> FinetuneTrainer:
    loaded = load(options)
    torch.manual_seed(options.seed)
    trainer = make_trainer(build_head(options, loaded.cache), options, loaded, ProcessGroup())
    assert isinstance(trainer, FinetuneTrainer)
    return trainer


def state_of(clip: Clip) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in clip.model.state_dict().items()}


def test_the_loss_falls_and_gradients_reach_both_towers_and_the_head(options: TrainOptions) -> None:
    trainer = trainer_of(replace(options, freeze_layers=-1, clip_lr=3e-4, lr=0.0, epochs=20))
    before, texts = state_of(trainer.clip), np.arange(16)
    losses = [trainer.step(texts)[0].item() for _ in range(8)]
    assert losses[-1] < 0.9 * losses[0]
    named = dict(trainer.clip.model.named_parameters())
    without = {name for name, parameter in named.items() if parameter.grad is None or not parameter.grad.any()}
    # Behind the end token nothing is read, and a key's bias moves all attention of a query alike.
    assert without <= {"logit_scale", "visual.attnpool.k_proj.bias"}
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in trainer.head.parameters())
    after = trainer.clip.model.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == trainer.clip_weights.keys()


def test_bert_adam_trains_clip_and_the_logit_scale_at_the_rate_of_clip(options: TrainOptions) -> None:
    trainer = trainer_of(replace(options, optimizer="bert-adam"))
    groups = trainer.optimiser.param_groups
    assert [(group["initial_lr"], group["weight_decay"]) for group in groups] == [(1e-3, 0.2), (1e-3, 0.0), (1e-4, 0.2), (1e-4, 0.0)]
    slow = {id(parameter) for group in groups[2:] for parameter in group["params"]}
    assert slow == {id(trainer.head.logit_scale), *map(id, trainer.clip_weights.values())}
    spared = {id(parameter) for parameter in groups[3]["params"]}
    assert spared == {id(value) for name, value in trainer.clip_weights.items() if name.endswith("bias")}


@pytest.mark.parametrize("frozen", [0, 2, 4])
def test_frozen_layers_do_not_move_and_the_others_do(options: TrainOptions, frozen: int) -> None:
    trainer = trainer_of(replace(options, freeze_layers=frozen))
    before = state_of(trainer.clip)
    trainer.step(np.arange(8))
    after = trainer.clip.model.state_dict()
    still = ["logit_scale", "token_embedding", "positional_embedding", "visual.conv", "visual.bn"]
    still += [f"transformer.resblocks.{i}." for i in range(frozen)] + [f"visual.layer{i + 1}." for i in range(frozen)]
    moving = [f"transformer.resblocks.{i}." for i in range(frozen, 4)] + [f"visual.layer{i + 1}." for i in range(frozen, 4)]
    moving += ["ln_final", "text_projection", "visual.attnpool"]
    for name, value in before.items():
        statistics = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        assert name.startswith(tuple(still)) != name.startswith(tuple(moving)), name
        assert torch.equal(value, after[name]) == (statistics or name.startswith(tuple(still))), name


def test_layers_of_vision_transformers_are_counted_from_the_input() -> None:
    clip = load_clip("ViT-S-32", "random", torch.device("cpu"))
    both = towers(clip.model, clip.text_tower)
    named = train_above(clip.model, both, 11)
    kept = {f"{tower}transformer.resblocks.11." for tower in ("", "visual.")}
    others = {name for name in named if not name.startswith(tuple(kept))}
    assert others == {"visual.ln_post.weight", "visual.ln_post.bias", "visual.proj", "ln_final.weight", "ln_final.bias", "text_projection"}
    assert train_above(clip.model, both, -1).keys() == dict(clip.model.named_parameters()).keys() - {"logit_scale"}
    for wrong in (13, -2):
        with pytest.raises(UserError, match=f"--freeze-layers {wrong}: the image tower of this CLIP has 12 blocks"):
            train_above(clip.model, both, wrong)
    unknown = replace(both[0], blocks=None)
    assert len(train_above(clip.model, (unknown, both[1]), -1)) > 100
    with pytest.raises(UserError, match="the blocks of a VisionTransformer are unknown: use -1 to train all of it"):
        train_above(clip.model, (unknown, both[1]), 0)


@pytest.mark.long
def test_a_clip_that_is_written_is_the_same_when_it_is_loaded(tmp_path: Path) -> None:
    clip = load_clip("ViT-S-32", "random", torch.device("cpu"), seed=1)
    assert save_clip(clip, tmp_path / "clip") == clip.digest
    again = load_clip(f"local-dir:{tmp_path / 'clip'}", None, torch.device("cpu"))
    assert (again.digest, again.architecture, again.image_settings()) == (clip.digest, clip.architecture, clip.image_settings())
    assert torch.equal(again.tokenize(["a red ball"], 32)[0], clip.tokenize(["a red ball"], 32)[0])


@pytest.mark.exact
def test_without_a_step_the_features_are_those_of_the_cache(options: TrainOptions, cache: FeatureCache) -> None:
    trainer = trainer_of(replace(options, max_frames=None))
    split = load(replace(options, max_frames=None, finetune=False)).select
    made = trainer.validation(split)
    everything = range(len(split.texts.texts))
    for part in ("words", "sentences"):
        for found, expected in zip(*(getattr(side, part).gather(everything) for side in (made.texts, split.texts)), strict=True):
            assert torch.equal(found, expected)
    frames, expected = (side.frames.gather(range(len(split.videos.ids)))[0] for side in (made.videos, split.videos))
    # JPEG is not lossless.
    assert torch.nn.functional.cosine_similarity(frames, expected).min() > 0.99
    np.testing.assert_array_equal(made.videos.frames.length_N, split.videos.frames.length_N)

    texts = np.array([5, 0, 7, 5, 1])
    with torch.no_grad():
        text_batch, video_batch = trainer.batches(texts)
    cached = super(FinetuneTrainer, trainer).batches(texts)
    torch.testing.assert_close(text_batch.sentence_AD, cached[0].sentence_AD, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(text_batch.word_RD, cached[0].word_RD, rtol=1e-2, atol=1e-2)
    assert torch.equal(text_batch.length_A, cached[0].length_A)
    assert torch.equal(video_batch.mask_BF, cached[1].mask_BF)
    real = video_batch.mask_BF
    assert torch.nn.functional.cosine_similarity(video_batch.frame_BFD[real], cached[1].frame_BFD[real]).min() > 0.99
    assert not video_batch.frame_BFD[~real].any()


def test_checkpointing_keeps_less_and_changes_no_bit(options: TrainOptions) -> None:
    gradients, kept = [], []
    for checkpointing in (False, True):
        trainer = trainer_of(replace(options, grad_checkpointing=checkpointing))
        with counted_bytes() as count:
            trainer.step(np.arange(16))
        kept.append(count[0])
        gradients.append([parameter.grad for parameter in trainer.clip_weights.values()])
    for plain, again in zip(*gradients, strict=True):
        assert plain is not None
        assert again is not None
        assert torch.equal(plain, again)
    assert kept[1] < kept[0] / 3


@contextmanager
def counted_bytes() -> Iterator[list[int]]:
    """Bytes that are kept for the backward pass, each place in memory once."""
    count, places = [0], set[int]()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in places:
            places.add(tensor.data_ptr())
            count[0] += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield count


@pytest.mark.long
def test_a_run_stopped_at_any_step_ends_with_the_same_bits(options: TrainOptions, tmp_path: Path) -> None:
    options = replace(options, epochs=2, head="mean", temporal="none", max_frames=1)
    whole = train_head.main(options)
    for step in (3, 8):
        stopped = replace(options, out=tmp_path / f"stopped {step}")
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, step)
            with pytest.raises(KeyboardInterrupt, match="with --resume"):
                train_head.main(stopped)
        resumed = train_head.main(replace(stopped, resume=True))
        for name in ("head.safetensors", "clip/open_clip_model.safetensors"):
            assert (resumed / name).read_bytes() == (whole / name).read_bytes(), step
        pd.testing.assert_frame_equal(logged(resumed), logged(whole), check_exact=True)
        assert sorted(path.name for path in resumed.iterdir()) == [
            "clip",
            "head.safetensors",
            "log.csv",
            "options.yaml",
            "run.json",
            "trained-on.json",
        ]


@pytest.mark.long
def test_from_pictures_to_a_new_cache_and_its_metrics(
    options: TrainOptions, own_cache_options: ExtractOptions, cache: FeatureCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_head.main(options)
    assert f"extract with the new CLIP: run extract with --model local-dir:{run / 'clip'}" in capsys.readouterr().out
    record = json.loads((run / "run.json").read_text())
    assert record["finetuned_from"] == cache.weights != record["weights"]
    new = FeatureCache(extract.main(replace(own_cache_options, model=f"local-dir:{run / 'clip'}")))
    assert new.weights == record["weights"]
    assert new.settings | {"weights": cache.weights} == cache.settings
    asked = EvaluateOptions(cache=new.path, run=str(run), out=tmp_path / "out", split="val", device="cpu", quiet=True)
    found = json.loads((evaluate.main(asked) / "metrics.json").read_text())
    assert (found["weights"], found["max_frames"]) == (new.weights, 2)
    assert found["queries"] == 20
    # What chose the epoch was made of the same CLIP, from pictures.
    trainer = trainer_of(options)
    trainer.clip = load_clip(f"local-dir:{run / 'clip'}", None, torch.device("cpu"))
    made, split = trainer.validation(load(options).select), load_split(new, "val", None, BUDGET, 2)
    assert torch.equal(made.texts.words.gather(range(20))[0], split.texts.words.gather(range(20))[0])
    frames, expected = (side.videos.frames.gather(range(10))[0] for side in (made, split))
    assert torch.nn.functional.cosine_similarity(frames, expected).min() > 0.99
    tested = json.loads((evaluate.main(replace(asked, split="test", out=tmp_path / "test")) / "metrics.json").read_text())
    figures = figures_of(measured(run, new.path, FinetuningOptions(max_frames=2, device="cpu")))
    assert figures == pytest.approx({"R@1": tested["text_to_video"]["R@1"], "RSum": tested["RSum"]})
    with pytest.raises(UserError, match=r"has trained CLIP too, but the cache .* run extract with --model local-dir:") as refusal:
        evaluate.main(replace(asked, cache=cache.path, out=tmp_path / "other"))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "other").exists()
    frozen = train_head.main(replace(options, finetune=False, clip_lr=1e-7, cache=cache.path, out=tmp_path / "frozen"))
    with pytest.raises(UserError, match="other CLIP weights"):
        evaluate.main(replace(asked, run=str(frozen), out=tmp_path / "other"))


@pytest.mark.long
def test_two_processes_give_the_loss_and_gradients_of_one(pixel_cache: Path, tmp_path: Path) -> None:
    done = launch(2, "tests.finetune_step", pixel_cache, tmp_path / "2.safetensors")
    assert done.returncode == 0, done.stderr
    one, two = finetune_step.step(pixel_cache, ProcessGroup()), load_file(tmp_path / "2.safetensors")
    assert one.keys() == two.keys()
    assert len([name for name in one if name.startswith("visual.")]) > 20
    for name, expected in one.items():
        share = (two[name] - expected).norm() / expected.norm().clamp(min=1e-3)
        assert share < (1e-5 if name == "losses" else 2e-3), f"{name}: {share:.1e} is wrong"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"finetune": False}, "--clip-lr goes with --finetune"),
        ({"finetune": False, "freeze_layers": 2}, "--clip-lr and --freeze-layers go with --finetune"),
        ({"freeze_layers": 5}, "--freeze-layers 5: the image tower of this CLIP has 4 blocks"),
        ({"clip_lr": -1.0}, "--clip-lr -1.0 must be a number of at least 0"),
        ({"model": "local-dir:no/such/clip"}, "local-dir:no/such/clip: no open_clip_config.json"),
        ({"model": DEMO_CLIP, "pretrained": "random"}, r"with random has the weights .*, but the cache .* was made with"),
    ],
)
def test_fine_tuning_refuses(options: TrainOptions, change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        train_head.main(replace(options, **change))  # type: ignore[arg-type]
    assert "\n" not in str(refusal.value)
    assert not options.out.exists()


def test_a_cache_without_pictures_is_refused(options: TrainOptions, cache_path: Path) -> None:
    with pytest.raises(UserError, match=r"no pictures of 50 of 50 videos, such as video.*: extract again with --store-pixels") as refusal:
        train_head.main(replace(options, cache=cache_path))
    assert len(refusal.value.listed) == 50
    assert not options.out.exists()


def test_a_clip_that_has_moved_can_be_named(options: TrainOptions, pixel_cache: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(ROOT / "demo/clip", moved)
    cache = FeatureCache(pixel_cache)
    cache.extraction = Extraction(f"local-dir:{tmp_path / 'gone'}")
    with pytest.raises(UserError, match=r"is not where it was .*: name it with --model and --pretrained") as refusal:
        load_trained(options, cache, torch.device("cpu"))
    assert "\n" not in str(refusal.value)
    assert load_trained(replace(options, model=f"local-dir:{moved}"), cache, torch.device("cpu")).digest == cache.weights
    cache.extraction = Extraction()
    with pytest.raises(UserError, match="does not say which CLIP made it"):
        load_trained(options, cache, torch.device("cpu"))


def test_a_clip_lr_that_is_too_large_is_named(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverged(self: Clip, image_NCHW: torch.Tensor) -> torch.Tensor:
        bias: torch.Tensor = self.model.visual.attnpool.c_proj.bias
        return bias + torch.full((len(image_NCHW), self.dimension), torch.nan)

    trainer = trainer_of(options)
    monkeypatch.setattr(Clip, "image_features", diverged)
    with pytest.raises(UserError, match=r"features are not finite of 'video.*, epoch 1: train again with a lower --clip-lr"):
        trainer.run_epoch(1)


def test_the_interval_of_a_difference_is_that_of_its_videos() -> None:
    """Beside the interval of the normal distribution, where seeds agree; and nothing where all videos differ alike."""
    rng = np.random.default_rng(1)
    count_B = rng.integers(1, 4, 400)
    owner_A = np.repeat(np.arange(400), count_B)

    def at(text_A: np.ndarray, video_B: np.ndarray) -> Measured:
        """Everything at these ranks, without ties."""
        texts, videos = (Ranks(np.arange(len(rank_Q)), rank_Q, rank_Q) for rank_Q in (text_A, video_B))
        return Measured(texts, videos, owner_A)

    last_A, last_B = np.full(len(owner_A), 400), np.full(400, 400)
    none = at(last_A, last_B)
    all_first = at(np.ones_like(last_A), np.ones_like(last_B))
    assert difference_of([(none, all_first)] * 3, "RSum", 200) == pytest.approx({"mean": 600, "low": 600, "high": 600})
    better = rng.random(400) < 0.3
    some = at(np.where(better[owner_A], 1, 400), last_B)
    found = difference_of([(none, some)] * 2, "R@1", 4000)
    share = (count_B * better).sum() / count_B.sum()
    error = np.sqrt((count_B**2 * (better - share) ** 2).sum()) / count_B.sum()
    expected = {"mean": 100 * share, "low": 100 * (share - 1.96 * error), "high": 100 * (share + 1.96 * error)}
    assert found == pytest.approx(expected, abs=0.5)
