"""What search.build, search.add, search.status and search.drop have in common."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from data.base.errors import UserError
from data.cli.command_line import About
from search.index.options import EngineOptions, check_engine
from search.retrieval.listed import GalleryOptions, listed_videos

if TYPE_CHECKING:  # pandas loads late, so that --help answers at once
    from data.cache import FeatureCache

KindName = Literal["FLAT", "IVF_FLAT", "IVF_SQ8", "IVF_PQ", "HNSW", "DISKANN"]


@dataclass(frozen=True, kw_only=True)
class StoreOptions(EngineOptions):
    """Which vectors, and where they are."""

    candidates_from: Annotated[Literal["frames", "pooled", "both"], About.CANDIDATES] = "frames"
    """Vectors. frames: one per frame, and a video is found by its best frame. pooled: one per video, the mean of its frames, which is
    cheaper."""

    def kinds(self) -> tuple[Literal["frames", "pooled"], ...]:
        """The kinds of vectors that --candidates-from selects."""
        return ("frames", "pooled") if self.candidates_from == "both" else (self.candidates_from,)


@dataclass(frozen=True, kw_only=True)
class FillOptions(StoreOptions, GalleryOptions):
    """Which videos go where."""

    max_frames: Annotated[int | None, About.INPUT] = None
    """Frames of each video, evenly spaced, as the runs that are searched with were trained on. Default: all cached frames."""
    shard: Annotated[str, About.MACHINE] = "0/1"
    """With milvus: I/N, to write the I-th of N shares of the videos, so that N processes or machines fill one collection."""
    quiet: Annotated[bool, About.OUTPUT] = False
    """Show no progress."""


def gallery_of(options: GalleryOptions, cache: "FeatureCache") -> list[str]:
    """The ids of the videos to index. Raises UserError if there are none."""
    videos = list(listed_videos(options, cache))
    if not videos:
        raise UserError(f"the cache {cache.path} holds no videos that a source lists: run extract, or use --all")
    return videos


def check_store(options: StoreOptions) -> None:
    """Raise UserError for options that do not go together."""
    check_engine(options)
    if options.engine == "faiss" and options.index is None:
        raise UserError("--engine faiss keeps an index in a folder: name it with --index")


def check_fill(options: FillOptions) -> tuple[int, int]:
    """I and N of --shard. Raises UserError for options that do not go together."""
    check_store(options)
    if options.max_frames is not None and options.max_frames < 1:
        raise UserError(f"--max-frames {options.max_frames} must be at least 1")
    found = re.fullmatch(r"(\d+)/(\d+)", options.shard)
    shard = (int(found[1]), int(found[2])) if found else (0, 0)
    if shard[0] >= shard[1]:
        raise UserError(f"--shard {options.shard}: I/N with I from 0 to N - 1, such as 0/4 to 3/4 for four processes")
    if shard[1] > 1 and options.engine == "faiss":
        raise UserError("--shard is for --engine milvus: one process writes an index of faiss")
    if shard[1] > 1 and options.uri is not None and options.uri.endswith(".db"):
        raise UserError(f"--shard {options.shard}: one process at a time opens a file of Milvus Lite: name a server with --uri")
    return shard
