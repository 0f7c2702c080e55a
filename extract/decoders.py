"""What decodes beside ffmpeg on the CPU is asked for by name, and refused before any work where it does not work here."""

import tempfile
import time
from itertools import repeat
from pathlib import Path

from data.errors import UserError
from data.ffmpeg import encode_video
from extract.by_ffmpeg import by_ffmpeg
from extract.frames import Cuda, DecodeFailed, Sampling
from extract.graph import Part
from extract.options import ExtractOptions
from extract.pyav import require_pyav

TRIAL_SIDE = 256
"""Pixels: GPUs refuse much smaller videos."""

TRIAL_LIMIT_S = 60.0


def check_decoder(options: ExtractOptions) -> None:
    """Raises UserError where the decoder or the device that the options ask for is not there, or they do not go together."""
    if options.decoder == "pyav":
        if options.decode_device == "cuda":
            raise UserError("--decode-device cuda is for --decoder ffmpeg: leave one of them out")
        require_pyav()
    if options.decode_device == "cuda":
        _try_cuda()


def _try_cuda() -> None:
    """One decoding of a small H.264 video: that ffmpeg lists CUDA says nothing of the machine."""
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "trial.mp4"
        encode_video(video, bytes(TRIAL_SIDE * TRIAL_SIDE * 3) * 10, TRIAL_SIDE, TRIAL_SIDE, 5)
        try:
            by_ffmpeg(Part(video, 0.0, None), Sampling(cuda=Cuda()), repeat(lambda image: image.size), time.monotonic() + TRIAL_LIMIT_S)
        except DecodeFailed as error:
            raise UserError(f"--decode-device cuda: ffmpeg cannot decode on a GPU here ({error}); use --decode-device cpu") from error
