"""Check that the decoder works before any video is opened, and choose the one that `--decoder auto` stands for."""

import importlib.util
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import repeat
from pathlib import Path

import numpy as np
from PIL import Image

from data.base.errors import UserError
from data.span import WHOLE_FILE
from extract.decode.by_ffmpeg import by_ffmpeg
from extract.decode.frames import Cuda, DecodeFailed, Sampling
from extract.decode.pyav import PyavProcesses, require_pyav
from extract.decode.sample import sample_frames
from extract.ffmpeg.run import START_LIMIT_S, Processes, encode_video, find_ffmpeg, require_ffmpeg, unusable
from extract.options import ExtractOptions

TRIAL_SIDE = 256
"""Side of the trial video in pixels. GPUs refuse much smaller videos."""

TRIAL_LIMIT_S = 60.0
IMPORT_LIMIT_S = 30.0

AUTO_VIDEOS = 100
"""`--decoder auto` leaves fewer videos to ffmpeg: on several short ones PyAV saves no more than its start and its trial take."""


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


def pyav_for(options: ExtractOptions, videos: int, processes: Processes) -> PyavProcesses | None:
    """PyAV's processes for a run that decodes this number of videos; None if ffmpeg decodes all of them.

    With `--decoder auto`, says so on standard error if PyAV does not give the pixels of ffmpeg.
    """
    if options.decoder == "ffmpeg":
        return None
    pyav = PyavProcesses(processes)
    if options.decoder == "pyav":
        return pyav
    if options.decode_device == "cuda" or videos < AUTO_VIDEOS or importlib.util.find_spec("av") is None:
        return None
    why = _why_not_imported() or ("" if _gives_pixels_of_ffmpeg(pyav) else "it does not give the pixels of ffmpeg")
    if not why:
        return pyav
    pyav.close()
    if not options.quiet:
        print(f"PyAV is left out on this machine ({why}): ffmpeg decodes all videos", file=sys.stderr)
    return None


def _why_not_imported() -> str:
    """Why PyAV, which is installed, cannot be imported; empty if it can. Asked in a process, which may crash or hang."""
    try:
        done = subprocess.run([sys.executable, "-c", "import av"], capture_output=True, text=True, check=False, timeout=IMPORT_LIMIT_S)
    except subprocess.TimeoutExpired:
        return f"it is not imported after {IMPORT_LIMIT_S:g} s"
    said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
    return f"it cannot be imported: {said[-1]}" if done.returncode else ""


def _gives_pixels_of_ffmpeg(pyav: PyavProcesses) -> bool:
    """Compare the two on a small H.264 video of noise. Their libraries may be of different versions."""
    noise = np.random.default_rng(0).integers(0, 256, (10, 98, 130, 3), dtype=np.uint8)
    # An ffmpeg without H.264's encoder cannot make the video.
    with tempfile.TemporaryDirectory() as folder, suppress(UserError, DecodeFailed):
        video = Path(folder) / "trial.mp4"
        encode_video(video, noise.tobytes(), 130, 98, 5)
        expected = sample_frames(video, Sampling(5, time_limit_s=TRIAL_LIMIT_S), Image.Image.tobytes)
        found = sample_frames(video, Sampling(5, time_limit_s=TRIAL_LIMIT_S, pyav=pyav), Image.Image.tobytes)
        return found.decoder == "pyav" and found.pictures == expected.pictures
    return False


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
