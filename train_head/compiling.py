"""A line before loops are compiled: work begins with it on a machine that has not done it yet, and nothing else would be seen."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numba.core.event import Listener, install_listener

from data.base.progress import say
from train_head.heads import Head, TextBatch, VideoBatch
from train_head.scoring.splits import Split

ONCE = "once on this machine"
EACH_TIME = "each time, for numba has no folder to keep them in: name one with NUMBA_CACHE_DIR"


@contextmanager
def compiling_said(quiet: bool) -> Iterator[None]:
    """Where loops are compiled inside, and not loaded from disk, say so once on stderr; not with `quiet`."""
    if quiet:
        yield
        return
    with install_listener("numba:compile", _Line()):
        yield


def compile_loops(head: Head, split: Split) -> None:
    """Score a pair with gradients, and one without: what follows then compiles and loads nothing, and its time is that of its work."""
    device = head.logit_scale.device
    texts, videos = TextBatch.gather(split.texts, [0], device), VideoBatch.gather(split.videos, [0], device)
    for training in (True, False):
        with torch.set_grad_enabled(training):
            scores_SAB = head.train(training).scores(head.encode_texts(texts), head.encode_videos(videos))
            if training:
                scores_SAB.sum().backward()
    head.zero_grad()


class _Line(Listener):  # type: ignore[misc]
    """Prints the line at the first loop that is compiled, in whichever thread."""

    def __init__(self) -> None:
        self._said = False

    def on_start(self, event: Any) -> None:
        if not self._said:
            self._said = True
            kept = event.data["dispatcher"].stats.cache_path is not None
            say(f"compiling the loops that score: 10 to 30 s, {ONCE if kept else EACH_TIME}")

    def on_end(self, event: Any) -> None:
        """Work goes on."""
