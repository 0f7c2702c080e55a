"""Which frames are wanted of a video, and what comes of it."""

from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from extract.decode.pyav import PyavProcesses
from extract.ffmpeg.clock import Clocks
from extract.ffmpeg.run import Processes

TIME_LIMIT_S = 1800.0

CUDA_FAILURES = 5
"""After so many videos in a row that the GPU could not decode and the CPU could, the CPU decodes what is left."""

Picture = TypeVar("Picture")


class DecodeFailed(Exception):
    """The video gives no frames that could be trusted.

    `reason` is one line, `words` the decoder's last ones; `expected` and `decoded` count the sampled frames of a file that is cut short.
    """

    def __init__(self, reason: str, words: str = "", expected: int | None = None, decoded: int | None = None) -> None:
        super().__init__(f"{reason}: {words}" if words else reason)
        self.reason, self.words, self.expected, self.decoded = reason, words, expected, decoded


class Cuda:
    """Whether the GPU still decodes: it is left alone after several failures one after the other."""

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
    """Which frames are wanted of a video and how long it may take."""

    fps: float = 1.0
    max_frames: int | None = None
    """Chosen evenly of those sampled; None keeps all."""
    time_limit_s: float = TIME_LIMIT_S
    allow_partial: bool = False
    """Whether a file that is cut short gives the frames it has."""
    processes: Processes = field(default_factory=Processes)
    clocks: Clocks = field(default_factory=Clocks)
    pyav: PyavProcesses | None = None
    """What is tried before ffmpeg."""
    cuda: Cuda | None = None
    """Whether ffmpeg decodes on the GPU, as long as that works."""
    pictures: Literal["display", "stored"] = "stored"
    """Pictures as a player shows them: deinterlaced where the stream says that it is interlaced, of square pixels, alpha over black. Or as
    they are stored: fields woven together, pixels of any shape taken for square, alpha left out."""


@dataclass(frozen=True)
class Sampled(Generic[Picture]):
    """The chosen frames of a video, what was made of each, and their times in seconds from the start of the video.

    `expected` is the number of sampled frames that the header of a cut file announces, None of a whole one; `hdr` the transfer function of
    a video of high dynamic range, whose values are taken as they are, empty otherwise; `decoder` is what decoded it: ffmpeg on the `cpu` or
    by `cuda`, or `pyav`; `clock_jumps` how often the clock was set within.
    """

    pictures: list[Picture]
    seconds: list[float]
    expected: int | None = None
    hdr: str = ""
    decoder: str = "cpu"
    clock_jumps: int = 0
