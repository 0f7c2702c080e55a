"""Render the demo data set: `python -m demo.generate --out DIR` writes DIR/videos/*.mp4 and DIR/annotations in MSR-VTT's format.

A second run renders only the missing videos, and refuses a DIR with other sizes, another seed, another version of the world or other files.
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.base.children import ignore_interrupts
from data.base.errors import UserError, check_seed, not_as_written
from data.base.progress import Progress
from data.base.whole_files import write_atomically, write_json
from data.base.writable import make_folder, require_writable_folder
from data.cli.command import run_command
from demo.render import FOOTAGE, SIDE, render_event
from demo.words import Voice, caption
from demo.world import MAX_VIDEOS, VERSION, DemoSplit, make_split
from extract.ffmpeg.run import encode_video, require_ffmpeg

FPS = 4
"""Frames a second of the videos: extraction samples one a second."""
VOICE = Voice(unusual=0.5)
"""How the captions are worded: otherwise than those that CLIP learned from."""
RECIPE_FILE = "recipe.json"


@dataclass(frozen=True)
class GenerateOptions:
    """Render the demo data set: videos of moving shapes, with captions that each describe a part of a video."""

    out: Path
    """Folder for videos/ and annotations/."""
    train: int = 1000
    """Number of training videos, with six captions each."""
    val: int = 200
    """Number of validation videos, with two captions each."""
    test: int = 500
    """Number of test videos, with two captions each."""
    seed: int = 0
    """Seed of the events, captions and pictures."""
    quiet: bool = False
    """Do not print progress."""


CAPTIONS_PER_VIDEO = {"train": 6, "val": 2, "test": 2}


def main(options: GenerateOptions) -> Path:
    """Write the data set and return its folder. Raises UserError if the folder holds another data set, or if ffmpeg does not work."""
    require_ffmpeg()
    check_seed(options.seed)
    sizes = {"train": options.train, "val": options.val, "test": options.test}
    if min(sizes.values()) < 1:
        raise UserError("--train, --val and --test must each be at least 1")
    if max(sizes.values()) > MAX_VIDEOS:
        raise UserError(f"--train, --val and --test must each be at most {MAX_VIDEOS:,}: beyond that no caption is true of one video alone")
    require_writable_folder(options.out)
    recipe = {**sizes, "seed": options.seed, "world": VERSION}
    videos, annotations = options.out / "videos", options.out / "annotations"
    _check_folder(options.out, recipe, (videos, annotations))
    for folder in (videos, annotations):
        make_folder(folder)
    write_json(options.out / RECIPE_FILE, recipe)
    tasks = []
    records: dict[str, list[Any]] = {"videos": [], "sentences": []}
    number = 0
    for index, (split, size) in enumerate(sizes.items()):
        rng = np.random.default_rng([options.seed, index])
        made = make_split(rng, size, CAPTIONS_PER_VIDEO[split])
        ids = [f"video{number + v}" for v in range(size)]
        number += size
        _describe(made, split, ids, rng, records)
        write_atomically(annotations / f"MSRVTT_{split}.full.csv", pd.DataFrame({"video_id": ids}).to_csv(index=False))
        tasks += [
            (videos / f"{video_id}.mp4", made.events_VEK[v], made.seconds_VE[v], (options.seed, index, v)) for v, video_id in enumerate(ids)
        ]
    write_json(annotations / "MSRVTT_data.json", records)
    tasks = [task for task in tasks if not task[0].exists()]
    with (
        Progress("rendering", len(tasks), "videos", options.quiet) as progress,
        ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), ignore_interrupts) as pool,
    ):
        for _ in pool.map(_render_video, tasks, chunksize=8):
            progress.update()
    print(f"{options.out}: {number} videos ({len(tasks)} rendered now), {len(records['sentences'])} captions")
    return options.out


def _check_folder(out: Path, recipe: dict[str, int], folders: Sequence[Path]) -> None:
    """Raise UserError if `out` has a set of another recipe, or files in `folders` that no recipe explains."""
    path, remedy = out / RECIPE_FILE, "choose another folder, or delete it"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if filled := [folder for folder in folders if folder.is_dir() and any(folder.iterdir())]:
            raise UserError(f"--out {out} holds files that are not of a demo set, in {filled[0]}: choose another folder") from error
    except (OSError, ValueError) as error:
        raise not_as_written(path, error, f"{path} is damaged: {remedy}") from error
    else:
        if found != recipe:
            same = isinstance(found, dict) and {**found, "world": VERSION} == recipe
            which = "of another version of the demo's world" if same else "of other sizes or another seed"
            raise UserError(f"--out {out} holds a demo set {which}: {remedy}")


def _describe(made: DemoSplit, split: str, ids: list[str], rng: np.random.Generator, records: dict[str, list[Any]]) -> None:
    """Append the split's records, in the format of MSRVTT_data.json."""
    for v, video_id in enumerate(ids):
        seconds = int(made.seconds_VE[v].sum())
        records["videos"].append({"video_id": video_id, "split": split, "start time": 0, "end time": seconds, "url": ""})
        for statement in made.statements[v]:
            words = caption(rng, statement, VOICE)
            sentence = {"video_id": video_id, "caption": words, "sen_id": len(records["sentences"]), "kind": statement.kind}
            records["sentences"].append(sentence)


def _render_video(task: tuple[Path, NDArray[np.int8], NDArray[np.int8], tuple[int, int, int]]) -> None:
    """Draw the events of one video in order and encode it."""
    path, events_EK, seconds_E, seed = task
    rng = np.random.default_rng(seed)
    stills: list[bytes] = []
    for event_K, seconds in zip(events_EK, seconds_E, strict=True):
        count = FPS * int(seconds)
        if count:
            stills += [still.tobytes() for still in render_event(event_K, [i / count for i in range(count)], rng, FOOTAGE)]
    encode_video(path, b"".join(stills), SIDE, SIDE, FPS)


if __name__ == "__main__":
    run_command(GenerateOptions, main, prog="python -m demo.generate")
