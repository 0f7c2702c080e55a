"""Train the demo's tiny CLIP on rendered stills and captions: `python -m demo.train_clip --out DIR`.

The loss is CLIP's contrastive loss (Radford et al. 2021) on random events of the demo world. Half of each batch are hard negatives that
differ from the other half in one attribute. As on the web, a caption may say more than its picture shows (PARTIAL), and unusual words are
rare and sometimes wrong (WEB); the pictures are clean. The result is a folder for `--model local-dir:DIR` with open_clip's configuration
and float16 weights. The embeddings of tokens that no caption uses are set to zero, so that the file compresses well and unknown words have
no effect.

Shape suffixes: N stills of a batch, L text positions, D joint dimension.
"""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from math import log
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.base.children import ignore_interrupts
from data.base.errors import check_seed
from data.base.progress import Progress
from data.base.whole_files import write_whole
from data.base.writable import make_folder, require_writable_folder
from data.cli.command import run_command
from data.compute.tensors import write_tensors
from demo.render import render_event, studio
from demo.words import Voice, caption
from demo.world import MAX_EVENTS, NAMES, Description, Statement, change_one_attribute, describe, random_events
from extract.encode.clip import Clip, load_clip
from extract.encode.models import RANDOM

CONFIG_DIR = Path(__file__).parent / "clip"
CONFIG_FILE = "open_clip_config.json"

WEB = Voice(unusual=0.15, wrong=0.2)
"""How the captions of the training are worded."""
PARTIAL = 0.35
"""Share of the captions that describe several events, of which the picture shows one."""
FIRST = 0.7
"""Share of those whose picture shows the first event: people mention first what they see first."""

Batch = tuple[NDArray[np.uint8], list[str]]
"""Stills [N, H, W, 3] and their captions."""


@dataclass(frozen=True)
class TrainClipOptions:
    """Train the demo's tiny CLIP on rendered stills."""

    out: Path
    """Folder for open_clip_config.json and open_clip_model.safetensors."""
    config: Path = CONFIG_DIR
    """Folder with open_clip_config.json: the architecture to train."""
    steps: int = 1600
    """Number of optimiser steps."""
    batch_size: int = 128
    """Stills per step; half of them are hard negatives of the other half."""
    lr: float = 1e-3
    """Peak learning rate, reached after 5% of the steps and followed by cosine decay to zero."""
    seed: int = 0
    """Seed of the weights, stills and captions."""


def _make_batch(task: tuple[int, int, int]) -> Batch:
    """One batch from (seed, step, size): stills [N, 128, 128, 3] and their captions. The same in any process."""
    seed, step, size = task
    rng = np.random.default_rng([seed, step])
    base_NK = random_events(rng, size // 2)
    events_NK = np.concatenate([base_NK, change_one_attribute(rng, base_NK)])
    stills = [np.asarray(render_event(event_K, [float(rng.random())], rng, studio(rng))[0]) for event_K in events_NK]
    return np.stack(stills), [caption(rng, _statement(rng, event_K), WEB) for event_K in events_NK]


def _statement(rng: np.random.Generator, event_K: NDArray[np.int8]) -> Statement:
    """Some facts of the event, alone or among random others."""
    own = _some_facts(rng, event_K, 3)
    if rng.random() >= PARTIAL:
        return Statement("one", (own,))
    kind = ("several", "order", "whole")[int(rng.integers(3))]
    others = random_events(rng, int(rng.integers(2, MAX_EVENTS)) if kind == "whole" else 1)
    mentioned = [_some_facts(rng, other_K, 1) for other_K in others]
    mentioned.insert(0 if rng.random() < FIRST else int(rng.integers(1, len(mentioned) + 1)), own)
    return Statement(kind, tuple(mentioned))


def _some_facts(rng: np.random.Generator, event_K: NDArray[np.int8], least: int) -> Description:
    """At least this many facts of an event, drawn at random."""
    return describe(event_K, [NAMES[k] for k in rng.permutation(len(NAMES))[: rng.integers(least, len(NAMES) + 1)]])


def _batches(pool: ProcessPoolExecutor, options: TrainClipOptions) -> Iterator[Batch]:
    """Yield the batches in order. The pool renders only a few steps ahead, because rendering is faster than training."""
    pending: deque[Future[Batch]] = deque()
    for step in range(options.steps):
        pending.append(pool.submit(_make_batch, (options.seed, step, options.batch_size)))
        if len(pending) > 8:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def clip_loss(image_ND: Tensor, sentence_ND: Tensor, logit_scale: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy over the batch: image features [N, D], sentence features [N, D] -> scalar."""
    normalise = nn.functional.normalize
    logits_NN = logit_scale * normalise(image_ND, dim=-1) @ normalise(sentence_ND, dim=-1).T
    target_N = torch.arange(len(logits_NN))
    return (nn.functional.cross_entropy(logits_NN, target_N) + nn.functional.cross_entropy(logits_NN.T, target_N)) / 2


def _sentences(clip: Clip, ids_NL: Tensor, length_N: Tensor) -> Tensor:
    """Sentence features [N, D]: texts of similar length together, at no more positions than the longest has tokens."""
    order_N = length_N.argsort(stable=True)
    features = [clip.text.features(ids_NL[group, : clip.positions(int(length_N[group].max()))])[0] for group in order_N.chunk(4)]
    return torch.cat(features)[order_N.argsort()]


def main(options: TrainClipOptions) -> Path:
    """Train, write the folder, and return it."""
    check_seed(options.seed)
    require_writable_folder(options.out)
    clip = load_clip(f"local-dir:{options.config}", RANDOM, torch.device("cpu"), options.seed)
    # Read now: the folder may be gone when training ends.
    config = (options.config / CONFIG_FILE).read_bytes()
    model = clip.model.train().requires_grad_(True)
    with torch.no_grad():
        model.logit_scale.fill_(log(1 / 0.07))
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}], lr=options.lr, betas=(0.9, 0.98), eps=1e-6
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.lr, total_steps=options.steps, pct_start=0.05, cycle_momentum=False)
    seen_ids: set[int] = set()
    start = time.perf_counter()
    with (
        Progress("training CLIP", options.steps, "steps") as progress,
        ProcessPoolExecutor(1, get_context("spawn"), ignore_interrupts) as pool,
    ):
        for still_NHWC, captions in _batches(pool, options):
            # Resize as the evaluation transform does: bicubic with antialiasing.
            image_NCHW = nn.functional.interpolate(
                torch.from_numpy(still_NHWC).permute(0, 3, 1, 2).float() / 255, size=64, mode="bicubic", antialias=True
            ).clamp(0, 1)
            ids_NL, length_N = clip.tokenize(captions, clip.context_length)
            seen_ids.update(ids_NL.unique().tolist())
            loss = clip_loss(
                model.encode_image((image_NCHW - 0.5) / 0.25),
                _sentences(clip, ids_NL, length_N),
                model.logit_scale.exp(),
            )
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=log(100))
            progress.update(note=f"loss {loss.item():.3f}, logit scale {model.logit_scale.exp().item():.1f}")
    _save(model, seen_ids, config, options.out)
    print(f"{options.steps} steps in {time.perf_counter() - start:.0f} s -> {options.out}")
    return options.out


def _save(model: nn.Module, seen_ids: set[int], config: bytes, out: Path) -> None:
    state = {
        name: (value.detach().to(torch.float16) if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    unseen = torch.ones(len(state["token_embedding.weight"]), dtype=torch.bool)
    unseen[list(seen_ids)] = False
    state["token_embedding.weight"][unseen] = 0
    make_folder(out)
    write_whole(out / CONFIG_FILE, config)
    write_tensors(out / "open_clip_model.safetensors", state)


if __name__ == "__main__":
    run_command(TrainClipOptions, main, prog="python -m demo.train_clip")
