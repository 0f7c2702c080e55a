"""Check that the decoder works before any video is opened: a broken one would fail on all of them."""

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
"""Side of the trial video in pixels. GPUs refuse much smaller videos."""

TRIAL_LIMIT_S = 60.0


def check_decoder(options: ExtractOptions) -> None:
    """Raise UserError if the decoder or device in the options does not work, or if the two conflict.

    ffmpeg is always required: PyAV leaves videos to it that are not plain.
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
    """Decode a GIF of two small pictures. An ffmpeg that is too old prints its version, but refuses the options."""
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "trial.gif"
        black, white = (Image.new("L", (16, 16), level) for level in (0, 255))
        black.save(video, save_all=True, append_images=[white], duration=1000)
        try:
            sample_frames(video, Sampling(time_limit_s=START_LIMIT_S), lambda image: image.size)
        except DecodeFailed as error:
            raise unusable(find_ffmpeg(), f"does not decode ({error})") from error


def _try_cuda() -> None:
    """Decode a small H.264 video: ffmpeg lists CUDA even on a machine without a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "trial.mp4"
        encode_video(video, bytes(TRIAL_SIDE * TRIAL_SIDE * 3) * 10, TRIAL_SIDE, TRIAL_SIDE, 5)
        try:
            deadline = time.monotonic() + TRIAL_LIMIT_S
            by_ffmpeg(video, WHOLE_FILE, Sampling(cuda=Cuda()), repeat(lambda image: image.size), deadline)
        except DecodeFailed as error:
            raise UserError(f"--decode-device cuda: ffmpeg cannot decode on a GPU here ({error}); use --decode-device cpu") from error
