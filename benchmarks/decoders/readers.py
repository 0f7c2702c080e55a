"""Each decoder's way to read the frames on the screen at given seconds of a file, cropped as CLIP sees them.

Shape suffixes: N frames, H and W height and width, C colour channels.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from extract.decode.pyav import PyavProcesses
from extract.decode.sample import Sampling, sample_frames
from extract.ffmpeg.run import Processes

SIDE = 224
EARLY_S = 1e-4
"""Seconds. A frame that begins this much after a wanted moment counts as there: time stamps are rounded."""

Pixels = NDArray[np.uint8]
Reader = Callable[[Path, Sequence[float]], list[Pixels]]
"""Reads a file's frames on the screen at the given seconds. Each is an array [SIDE, SIDE, C]."""


def crop(image: Image.Image) -> Pixels:
    """Scale the shorter side to SIDE and cut out the centre."""
    scale = SIDE / min(image.size)
    width, height = (max(SIDE, round(scale * side)) for side in image.size)
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + SIDE, top + SIDE)))


def _crop_all(frames_NHWC: Sequence[Any] | Any) -> list[Pixels]:
    return [crop(Image.fromarray(frame_HWC)) for frame_HWC in frames_NHWC]


def ours(sampling: Sampling, path: Path, seconds: Sequence[float]) -> list[Pixels]:
    """This project's sampling, which finds the moments by itself."""
    sampled = sample_frames(path, sampling, crop)
    assert sampled.seconds == list(seconds)
    return sampled.pictures


def by_decord(decord: Any, path: Path, seconds: Sequence[float]) -> list[Pixels]:
    reader = decord.VideoReader(str(path), num_threads=1)
    begins = reader.get_frame_timestamp(range(len(reader)))[:, 0]
    wanted = np.searchsorted(begins, np.asarray(seconds) + EARLY_S, side="right") - 1
    return _crop_all(reader.get_batch(wanted.clip(min=0).tolist()).asnumpy())


def by_torchcodec(decoders: Any, path: Path, seconds: Sequence[float]) -> list[Pixels]:
    decoder = decoders.VideoDecoder(str(path), num_ffmpeg_threads=1, dimension_order="NHWC", seek_mode="exact")
    begin = decoder.metadata.begin_stream_seconds
    return _crop_all(decoder.get_frames_played_at([max(second + EARLY_S, begin) for second in seconds]).data.numpy())


def by_pyav(av: Any, path: Path, seconds: Sequence[float]) -> list[Pixels]:
    """Decode every frame in order."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        start = (container.start_time or 0) / av.time_base
        left, found, before = list(seconds), [], None
        for frame in container.decode(video=0):
            while left and before is not None and frame.time - start > left[0] + EARLY_S:
                found.append(crop(before.to_image()))
                left.pop(0)
            if not left:
                break
            before = frame
        assert before is not None
        return [*found, *(crop(before.to_image()) for _ in left)]


def by_opencv(cv2: Any, path: Path, seconds: Sequence[float]) -> list[Pixels]:
    """Decode every frame in order, and convert those wanted. Frames are counted, as if their rate were constant."""
    capture = cv2.VideoCapture(str(path))
    rate = capture.get(cv2.CAP_PROP_FPS)
    wanted = {int((second + EARLY_S) * rate) for second in seconds}
    found: list[Pixels] = []
    for index in range(max(wanted) + 1):
        capture.grab()
        if index in wanted:
            found.append(_opencv_frame(cv2, capture))
    return found


def by_clip_video_encode(cv2: Any, path: Path, seconds: Sequence[float]) -> list[Pixels]:
    """The rule of clip-video-encode, which cannot be installed beside this torch: every `int(rate)`-th frame to the end is converted and
    resized, and then the wanted ones are chosen. PIL resizes here in place of OpenCV.
    """
    capture = cv2.VideoCapture(str(path))
    step = int(capture.get(cv2.CAP_PROP_FPS))
    found: list[Pixels] = []
    index = 0
    while capture.grab():
        if index % step == 0:
            found.append(_opencv_frame(cv2, capture))
        index += 1
    return [found[min(round(second), len(found) - 1)] for second in seconds]


def _opencv_frame(cv2: Any, capture: Any) -> Pixels:
    there, frame_HWC = capture.retrieve()
    assert there
    return crop(Image.fromarray(cv2.cvtColor(frame_HWC, cv2.COLOR_BGR2RGB)))


def _our_pyav(_: Any, max_frames: int) -> Reader:
    return partial(ours, Sampling(max_frames=max_frames, pyav=PyavProcesses(Processes())))


def _opencv(read: Callable[..., list[Pixels]], cv2: Any, _: int) -> Reader:
    cv2.setNumThreads(1)
    return partial(read, cv2)


READERS: dict[str, tuple[str, Callable[[Any, int], Reader]]] = {
    "this project, ffmpeg": ("imageio_ffmpeg", lambda _, max_frames: partial(ours, Sampling(max_frames=max_frames))),
    "this project, PyAV": ("av", _our_pyav),
    "decord2": ("decord", lambda module, _: partial(by_decord, module)),
    "torchcodec": ("torchcodec.decoders", lambda module, _: partial(by_torchcodec, module)),
    "PyAV, every frame": ("av", lambda module, _: partial(by_pyav, module)),
    "OpenCV, every frame": ("cv2", partial(_opencv, by_opencv)),
    "clip-video-encode's rule": ("cv2", partial(_opencv, by_clip_video_encode)),
}
"""The module that each decoder needs, and what makes its reader from the module and the number of frames of a video at most."""
