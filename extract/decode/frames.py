"""Which frames to sample from a video, and the result of sampling."""

from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from extract.decode.pyav import PyavProcesses
from extract.ffmpeg.clock import Clocks
from extract.ffmpeg.run import Processes

TIME_LIMIT_S = 1800.0

CUDA_FAILURES = 5
"""Videos in a row that the GPU failed to decode and the CPU decoded, after which the CPU decodes all the others."""

Picture = TypeVar("Picture")


class DecodeFailed(Exception):
    """The video gives no frames that can be trusted.

    `reason` is one line, `last_words` the decoder's last error lines. For a truncated file, `expected` and `decoded` count its sampled
    frames.
    """

    def __init__(self, reason: str, last_words: str = "", expected: int | None = None, decoded: int | None = None) -> None:
        super().__init__(f"{reason}: {last_words}" if last_words else reason)
        self.reason, self.last_words, self.expected, self.decoded = reason, last_words, expected, decoded


class Cuda:
    """Whether the GPU is still used: not after CUDA_FAILURES failures in a row."""

    def __init__(self) -> None:
        self._failures = 0

    @property
    def works(self) -> bool:
        return self._failures < CUDA_FAILURES

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1


@dataclass(frozen=True)
class Sampling:
    """Which frames to sample from a video, and how."""

    fps: float = 1.0
    max_frames: int | None = None
    """Maximum number, chosen evenly from the sampled frames; None keeps all."""
    time_limit_s: float = TIME_LIMIT_S
    allow_partial: bool = False
    """Accept a truncated file with the frames it has."""
    processes: Processes = field(default_factory=Processes)
    clocks: Clocks = field(default_factory=Clocks)
    pyav: PyavProcesses | None = None
    """Tried before ffmpeg, if given."""
    cuda: Cuda | None = None
    """If given, ffmpeg decodes on the GPU as long as that works."""
    pictures: Literal["display", "stored"] = "stored"
    """display: as a player shows them, deinterlaced if the stream is marked as interlaced, with square pixels, and alpha over black.
    stored: fields woven together, pixels of any shape taken as square, alpha ignored."""


@dataclass(frozen=True)
class Sampled(Generic[Picture]):
    """The chosen frames of a video, as the callback converted them, and their times in seconds from the start of the video.

    `expected` is the number of sampled frames that a truncated file should have, None for a whole file. `hdr` is the transfer function of a
    high-dynamic-range video, whose values are used as they are, and is empty otherwise. `decoder` is `cpu` or `cuda` for ffmpeg, or `pyav`.
    `clock_jumps` counts the jumps of the video's clock.
    """

    pictures: list[Picture]
    seconds: list[float]
    expected: int | None = None
    hdr: str = ""
    decoder: str = "cpu"
    clock_jumps: int = 0
