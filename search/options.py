"""Options of `python -m search`, and the ones that it shares with `python -m search.serve`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from data.cli.command_line import About
from data.cli.meaning import DeviceName, SavesMemory
from search.index.options import EngineOptions
from search.retrieval.listed import GalleryOptions


@dataclass(frozen=True)
class RetrievalOptions(EngineOptions, GalleryOptions):
    """What to search, and with which head."""

    run: Annotated[str, About.INPUT]
    """Folder of a run, or zero-shot:HEAD for an untrained head: glccl, glim-global, glim-local, mean, xclip, dp, ti, meanmaxsim, or
    package.module:Class."""
    top: Annotated[int, About.OUTPUT] = 10
    """Number of results for each query."""
    candidates: Annotated[int | None, About.CANDIDATES] = None
    """Score only this many videos for each query, found with an index, or by another run; for large galleries and slow heads. Default:
    score all videos."""
    candidates_from: Annotated[Literal["frames", "pooled", "words"], About.CANDIDATES] = "frames"
    """Vectors in the index. frames: one per frame, and a video is found by its best frame. pooled: one per video, the mean of its frames,
    which is cheaper. words: those of frames, asked for the sentence and for each of its content words."""
    candidates_run: Annotated[str | None, About.CANDIDATES] = None
    """Folder of a run, or zero-shot:HEAD, that finds the candidates in place of an index: it scores all videos, and --run the K best of
    them, with K from --candidates. For heads too slow for all videos. Default: find candidates with an index."""
    table: Annotated[Path | None, About.INPUT] = None
    """Table of anything about the videos, in any format that extract reads, with a column `video` of ids or file names: a query may be
    limited by its columns. Default: none."""
    query_prefix: Annotated[str, About.INPUT] = ""
    """Words before every query, such as "a video of"."""
    query_template: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, About.INPUT] = ()
    """A wording of every query, such as "a video of {}"; may be given several times, and the scores of all wordings are averaged."""
    search_params: Annotated[str | None, About.CANDIDATES] = None
    """With milvus: parameters of a query, such as nprobe=64 for more lists, or ef=400. Default: an eighth of the lists."""
    model: Annotated[str | None, About.MODEL] = None
    """CLIP model, by open_clip's name or as local-dir:PATH, if it has moved since the cache was made. Default: as the cache records."""
    pretrained: Annotated[str | None, About.MODEL] = None
    """Weights of the model, for example a file that has moved. Default: as the cache records. Their digest must match the cache."""
    max_frames: Annotated[int | None, About.INPUT] = None
    """Frames to use from each video, evenly spaced. Default: as in training; for zero-shot, all cached frames."""
    tau: Annotated[float | None, About.INPUT] = None
    """Temperature of the guidance, for glccl, its halves and glscl. Default: as in training; for zero-shot, the paper's, 5."""
    kappa: Annotated[float | None, About.INPUT] = None
    """Temperature of the interaction, for glccl, its halves and xclip. Default: as in training; for zero-shot, the paper's, 0.01."""
    memory_budget: Annotated[float | None, About.MACHINE, SavesMemory("a smaller --memory-budget")] = None
    """GiB of memory for features and encoded videos. The rest is read or encoded anew for every query. Default: half of the machine's
    memory."""
    device: Annotated[DeviceName, About.MACHINE] = "auto"
    """Where CLIP and the head run; auto uses CUDA if it is available, else the CPU. mps is for GPUs of Apple, and untested."""
    quiet: Annotated[bool, About.OUTPUT] = False
    """Show no progress."""


@dataclass(frozen=True)
class SearchOptions(RetrievalOptions):
    """Find videos, and the best moment in each, for text queries; or, with --video, find captions for a video."""

    query: tyro.conf.Positional[tuple[str, ...]] = ()
    """What to look for. All words together form one query, with or without quotes. Put options before or after the words, not between
    them; after --, words may begin with a dash."""
    image: Annotated[Path | None, About.INPUT] = None
    """Picture to look for, alone or together with the words: a video is as near as its nearest frame, by cosine."""
    like: Annotated[str | None, About.INPUT] = None
    """Look for more like this: VIDEO, the id or file of a video, or VIDEO@TIME for its frame nearest to a time, in seconds or as 1:23.4."""
    not_: Annotated[str | None, About.INPUT] = None
    """Words whose scores count against a video."""
    weight: Annotated[float | None, About.INPUT] = None
    """Weight of --image and --like beside the words, from 0 to 1. Default: 0.5."""
    path: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, About.FILTER] = ()
    """Find only videos whose path below the folder, or id, matches this shell pattern, such as "holidays/*.mp4"; without wildcards,
    contains it. May be given several times; one must match."""
    min_length: Annotated[float | None, About.FILTER] = None
    """Find only videos of at least this many seconds, to 1 / fps."""
    max_length: Annotated[float | None, About.FILTER] = None
    """Find only videos of at most this many seconds."""
    since: Annotated[str | None, About.FILTER] = None
    """Find only videos whose file was last changed on this day, such as 2024-05-31, or later."""
    until: Annotated[str | None, About.FILTER] = None
    """Find only videos whose file was last changed on this day or before."""
    where: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, About.FILTER] = ()
    """Find only videos for which this holds in --table: COLUMN=VALUE, or with !=, <, <=, >, >= or ~ (contains). May be given several
    times; all must hold."""
    threshold: Annotated[float | None, About.OUTPUT] = None
    """Show only results with at least this score."""
    skip: Annotated[int, About.OUTPUT] = 0
    """Leave out so many of the best results: the page after the first is --skip 10."""
    moments: Annotated[int, About.OUTPUT] = 1
    """Number of moments to show of each video."""
    apart: Annotated[float, About.OUTPUT] = 5.0
    """Least number of seconds between the moments of a video."""
    fold: Annotated[float | None, About.OUTPUT] = None
    """Fold a video into a better result if the cosine of their mean frames is at least this, such as 0.98. Default: fold nothing."""
    each: Annotated[bool, About.INPUT] = False
    """Treat each argument as a separate query instead of joining all of them into one."""
    queries: Annotated[str | None, About.INPUT] = None
    """File of queries, one per line, answered after the query on the command line; - reads standard input."""
    video: Annotated[str | None, About.INPUT] = None
    """Id of a video: rank captions for it instead of answering queries."""
    captions: Annotated[Path | None, About.INPUT] = None
    """File of texts for --video, one per line. Default: all captions in the cache."""
    videos: Annotated[Path | None, About.INPUT] = None
    """Folder of the video files, for --html, --csv, --m3u and --clips. Default: the folder they were extracted from, if it still exists."""
    html: Annotated[Path | None, About.OUTPUT] = None
    """Write the results to this HTML file as well, with thumbnails if the cache has them, and links to the moments."""
    csv: Annotated[Path | None, About.OUTPUT] = None
    """Write the moments to this CSV file as well, one a line, with links to them."""
    m3u: Annotated[Path | None, About.OUTPUT] = None
    """Write the moments to this playlist as well, for VLC."""
    clips: Annotated[Path | None, About.OUTPUT] = None
    """Cut the moments into clips in this folder."""
    around: Annotated[float | None, About.OUTPUT] = None
    """Seconds before and after each moment that --clips and --m3u take. Default: 3."""
    json: Annotated[bool, About.OUTPUT] = False
    """Print the results as JSON on standard output, one line per query, in order."""
