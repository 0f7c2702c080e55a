"""Compiles the scoring loops ahead of the work and tells the user: the first run on a machine would otherwise seem to hang."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numba.core.event import Listener, install_listener

from data.base.progress import say
from train_head.heads import Head, TextBatch, VideoBatch
from train_head.scoring.splits import Split

ONCE = "once on this machine"
EACH_TIME = "on every run, because numba has no writable cache folder: set NUMBA_CACHE_DIR to one"


@contextmanager
def announce_compiling(quiet: bool) -> Iterator[None]:
    """Print one line on stderr before numba first compiles a loop in this context. Loading from disk prints nothing, nor does `quiet`."""
    if quiet:
        yield
        return
    with install_listener("numba:compile", _Line()):
        yield


def compile_loops(head: Head, split: Split) -> None:
    """Score one pair with and one without gradients, so that no later step pays for compiling or loading."""
    device = head.logit_scale.device
    texts, videos = TextBatch.gather(split.texts, [0], device), VideoBatch.gather(split.videos, [0], device)
    for training in (True, False):
        with torch.set_grad_enabled(training):
            scores_SAB = head.train(training).scores(head.encode_texts(texts), head.encode_videos(videos))
            if training:
                scores_SAB.sum().backward()
    head.zero_grad()


class _Line(Listener):  # type: ignore[misc]
    """Prints the line when any thread compiles the first loop."""

    def __init__(self) -> None:
        self._printed = False

    def on_start(self, event: Any) -> None:
        if not self._printed:
            self._printed = True
            kept = event.data["dispatcher"].stats.cache_path is not None
            say(f"compiling the loops that score: 10 to 30 s, {ONCE if kept else EACH_TIME}")

    def on_end(self, event: Any) -> None:
        """Required by `Listener`; there is nothing to do."""
