"""Options of `python -m search`, and those that `python -m search.serve` shares with it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from data.cli.command_line import About


@dataclass(frozen=True)
class RetrievalOptions:
    """What is searched, and with what."""

    cache: Annotated[Path, About.INPUT]
    """Folder of the feature cache."""
    run: Annotated[str, About.INPUT]
    """Folder of a run, or zero-shot:HEAD for a head without training: glccl, glim-global, glim-local, mean or xclip."""
    name: Annotated[str | None, About.INPUT] = None
    """Search the videos of one source in the cache, by the name that extract gave it. Default: what all sources list."""
    all: Annotated[bool, About.INPUT] = False
    """Search everything that is cached, also videos that are gone."""
    top: Annotated[int, About.OUTPUT] = 10
    """Results shown for each query."""
    candidates: Annotated[int | None, About.CANDIDATES] = None
    """Score only this many videos for a query, found by an index: for large galleries. Default: all are scored."""
    candidates_from: Annotated[Literal["frames", "pooled"], About.CANDIDATES] = "frames"
    """Vectors of the index: those of all frames, the best frame of a video counting; or, cheaper, one a video, the mean of its frames."""
    index: Annotated[Path | None, About.CANDIDATES] = None
    """Folder to keep the index in, for the next time. Default: it is built each time."""
    model: Annotated[str | None, About.MODEL] = None
    """CLIP by open_clip's name, or local-dir:PATH, where it has moved since the cache was made. Default: as the cache was made."""
    pretrained: Annotated[str | None, About.MODEL] = None
    """Its weights, such as a file that was moved. Default: as the cache was made; the digest must be the cache's in any case."""
    max_frames: Annotated[int | None, About.INPUT] = None
    """Frames used of each video, chosen evenly. Default: as the run was trained; all that are cached for zero-shot."""
    memory_budget: Annotated[float | None, About.MACHINE] = None
    """GiB of memory for features and encoded videos; those beyond it are read or encoded at every query. Default: half of the machine's
    memory."""
    device: Annotated[Literal["auto", "cpu", "cuda"], About.MACHINE] = "auto"
    """Where CLIP and the head run; auto takes CUDA where there is one."""
    quiet: Annotated[bool, About.OUTPUT] = False
    """No progress."""


@dataclass(frozen=True)
class SearchOptions(RetrievalOptions):
    """Find videos, and the moment in each, for queries in words; or, with --video, captions for a video."""

    query: tyro.conf.Positional[tuple[str, ...]] = ()
    """What to look for, in words: all of them are one query, with quotes or without. Options go before or after the words, not between
    them; after --, words may begin with a dash."""
    each: Annotated[bool, About.INPUT] = False
    """Take each argument as a query of its own, rather than all of them as the words of one."""
    queries: Annotated[str | None, About.INPUT] = None
    """File of queries, one a line, answered after one on the command line; - is standard input."""
    video: Annotated[str | None, About.INPUT] = None
    """Id of a video to rank captions for, instead of queries."""
    captions: Annotated[Path | None, About.INPUT] = None
    """File of texts for --video, one a line. Default: all captions of the cache."""
    html: Annotated[Path | None, About.OUTPUT] = None
    """File for the results as a page with thumbnails, where the cache keeps them."""
    json: Annotated[bool, About.OUTPUT] = False
    """The results as JSON on standard output, a line for each query, in their order."""
