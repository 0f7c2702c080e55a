"""Make clips of moving, textured scenes with cuts between them, as H.264 and AAC in MP4."""

from itertools import count
from pathlib import Path

import ffmpeg

from extract.ffmpeg.run import run_ffmpeg

RATE = 25
SCENE_S = (2.0, 4.5, 3.2, 2.8, 3.9)
"""Lengths of the scenes in seconds, over and over: 3.3 s on average."""

SCENES = (
    "mandelbrot=size={size}:rate={rate}:start_scale=0.4:end_scale=0.02:end_pts=250:maxiter=150",
    "testsrc2=size={size}:rate={rate}",
    "gradients=size={size}:rate={rate}:speed=0.05:nb_colors=6:seed={seed}",
)
"""ffmpeg's sources of moving pictures: a zoom, objects on straight paths, colours that turn."""


def make_clip(out: Path, width: int, height: int, seconds: float, first: int) -> Path:
    """Write a clip whose scenes begin with number `first` of SCENES. x264's settings are its defaults, so key frames stand at the cuts."""
    scenes, left = [], seconds
    for number in count(first):
        if left <= 0:
            break
        length = min(SCENE_S[number % len(SCENE_S)], left)
        source = SCENES[number % len(SCENES)].format(size=f"{width}x{height}", rate=RATE, seed=number)
        scenes.append(ffmpeg.input(source, f="lavfi", t=length).filter("format", "yuv420p").filter("setsar", 1))
        left -= length
    # Grain, as a camera gives it.
    picture = ffmpeg.concat(*scenes).filter("noise", alls=4, allf="t", all_seed=first)
    sound = ffmpeg.input("sine", f="lavfi", t=seconds)
    encoding = {"vcodec": "libx264", "acodec": "aac", "pix_fmt": "yuv420p", "shortest": None}
    run_ffmpeg(
        ffmpeg.output(picture, sound, str(out), **encoding).overwrite_output(),
        read=lambda running: running.stdout.read(),
        time_limit_s=600,
    )
    return out


def make_clips(folder: Path, clips: int, large: int) -> dict[str, list[Path]]:
    """Clips of MSR-VTT's shape, of 10 to 25 s, and large ones of 6 s."""
    folder.mkdir(exist_ok=True)
    small = [make_clip(folder / f"small{i}.mp4", 320, 240, 10 + 15 * i / max(clips - 1, 1), i) for i in range(clips)]
    wide = [make_clip(folder / f"large{i}.mp4", 1280, 720, 6, i) for i in range(large)]
    kinds = {"MSR-VTT's shape": small, "1280 x 720, 6 s": wide}
    return {kind: paths for kind, paths in kinds.items() if paths}
