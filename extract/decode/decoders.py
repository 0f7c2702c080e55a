"""Whether what is to decode works here, found out before any video is opened: a program that does not work fails at all of them."""

import tempfile
import time
from itertools import repeat
from pathlib import Path

from PIL import Image

from data.base.errors import UserError
from data.span import WHOLE_FILE
from extract.decode.by_ffmpeg import by_ffmpeg
from extract.decode.frames import Cuda, DecodeFailed, Sampling
from extract.decode.pyav import require_pyav
from extract.decode.sample import sample_frames
from extract.ffmpeg.run import START_LIMIT_S, encode_video, find_ffmpeg, require_ffmpeg, unusable
from extract.options import ExtractOptions

TRIAL_SIDE = 256
"""Pixels: GPUs refuse much smaller videos."""

TRIAL_LIMIT_S = 60.0


def check_decoder(options: ExtractOptions) -> None:
    """Raises UserError where the decoder or the device that the options ask for does not work, or they do not go together.

    ffmpeg is needed in any case: PyAV leaves to it what is not plain.
    """
    if options.decoder == "pyav":
        if options.decode_device == "cuda":
            raise UserError("--decode-device cuda is for --decoder ffmpeg: leave one of them out")
        require_pyav()
    require_ffmpeg()
    _try_ffmpeg()
    if options.decode_device == "cuda":
        _try_cuda()


def _try_ffmpeg() -> None:
    """One decoding of two small pictures. An ffmpeg that is too old says its version and then refuses what it is told."""
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "trial.gif"
        black, white = (Image.new("L", (16, 16), level) for level in (0, 255))
        black.save(video, save_all=True, append_images=[white], duration=1000)
        try:
            sample_frames(video, Sampling(time_limit_s=START_LIMIT_S), lambda image: image.size)
        except DecodeFailed as error:
            raise unusable(find_ffmpeg(), f"does not decode ({error})") from error


def _try_cuda() -> None:
    """One decoding of a small H.264 video: that ffmpeg lists CUDA says nothing of the machine."""
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "trial.mp4"
        encode_video(video, bytes(TRIAL_SIDE * TRIAL_SIDE * 3) * 10, TRIAL_SIDE, TRIAL_SIDE, 5)
        try:
            deadline = time.monotonic() + TRIAL_LIMIT_S
            by_ffmpeg(video, WHOLE_FILE, Sampling(cuda=Cuda()), repeat(lambda image: image.size), deadline)
        except DecodeFailed as error:
            raise UserError(f"--decode-device cuda: ffmpeg cannot decode on a GPU here ({error}); use --decode-device cpu") from error
