"""Run the rounds, compare the frames, print a table, and write the figures to a file."""

import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.decoders.clips import make_clips
from benchmarks.decoders.options import DecodersOptions
from benchmarks.decoders.processes import ReaderFailed, ReaderProcess, link_libraries
from benchmarks.decoders.readers import READERS
from benchmarks.measure import Timing, conclude
from data.base.errors import UserError
from data.base.writable import require_writable_file
from extract.decode.sample import DecodeFailed, Sampling, sample_frames

FIRST = next(iter(READERS))
"""The decoder whose frames the others are compared with."""

WORKERS = (1, 2)
SUFFIXES = {".mp4", ".mkv", ".webm"}

Row = dict[str, Any]


def main(options: DecodersOptions) -> Path:
    """Measure, print a table and a last line of JSON, and write OUT. Raises UserError if an option cannot be used."""
    for name, value, least in (("clips", options.clips, 0), ("large", options.large, 0), ("max-frames", options.max_frames, 1)):
        if value < least:
            raise UserError(f"--{name} {value}: must be at least {least}")
    if options.repeats < 1:
        raise UserError(f"--repeats {options.repeats}: must be at least 1")
    if options.videos is None and not options.clips + options.large:
        raise UserError("--clips 0 --large 0 leaves nothing to decode: one of them must be at least 1")
    require_writable_file(options.out)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.videos is None:
            kinds = make_clips(folder / "clips", options.clips, options.large)
        else:
            kinds = {str(options.videos): _videos(options.videos)}
        libraries = link_libraries(folder / "libraries")
        rows = [row for kind, paths in kinds.items() for row in _compare(kind, paths, options, folder, libraries)]
    conclude(rows, options.out, options)
    return options.out


def _videos(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"--videos {folder}: must be a folder of videos")
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if not found:
        raise UserError(f"--videos {folder}: must hold files {', '.join(f'*{suffix}' for suffix in sorted(SUFFIXES))}")
    return found


def _compare(kind: str, paths: Sequence[Path], options: DecodersOptions, folder: Path, libraries: Path) -> list[Row]:
    """One row for each decoder and number of workers. Each round runs all of them in turn."""
    seconds = [_seconds(path, options.max_frames) for path in paths]
    rows: dict[tuple[str, int], Row] = {}
    timings: dict[tuple[str, int], list[Timing]] = {}
    with ExitStack() as stack:
        readers: dict[str, ReaderProcess] = {}
        for name in READERS:
            rows |= {(name, workers): {"videos": kind, "workers": workers, "decoder": name} for workers in WORKERS}
            try:
                readers[name] = ReaderProcess(name, options.max_frames, libraries)
                stack.callback(readers[name].close)
                # Not timed: it reads the files into the page cache, and starts what stays.
                for workers in WORKERS:
                    with readers[name].peak() as peak:
                        readers[name].read(paths, seconds, workers, folder / f"{name}.npy")
                    rows[name, workers]["peak MiB"] = peak[0]
                    rows[name, workers] |= _difference(folder / f"{FIRST}.npy", folder / f"{name}.npy")
            except ReaderFailed as error:
                readers.pop(name, None)
                for workers in WORKERS:
                    rows[name, workers]["note"] = str(error)
        for _ in range(options.repeats):
            for workers in WORKERS:
                for name, reader in readers.items():
                    timing = reader.read(paths, seconds, workers)
                    timings.setdefault((name, workers), []).append(timing)
                    print(f"  {name}, {workers} workers: {timing.wall_s:.2f} s, {timing.cpu_s:.2f} s CPU", file=sys.stderr, flush=True)
    for key, found in timings.items():
        wall_s, cpu_s = (statistics.median(values) for values in zip(*((one.wall_s, one.cpu_s) for one in found), strict=True))
        rows[key] |= {"wall s": wall_s, "CPU s": cpu_s, "least wall s": min(one.wall_s for one in found)}
    for (_, workers), row in rows.items():
        reference = rows["decord2", workers]
        if "wall s" in row and "wall s" in reference:
            # The clock of processor time has steps of 10 ms: a clip may take none.
            row |= {f"{kind} of decord2": row[f"{kind} s"] / reference[f"{kind} s"] for kind in ("wall", "CPU") if reference[f"{kind} s"]}
    return sorted(rows.values(), key=lambda row: row["workers"])


def _seconds(path: Path, max_frames: int) -> list[float]:
    """The moments at which this project samples a video."""
    try:
        return sample_frames(path, Sampling(max_frames=max_frames), lambda _: None).seconds
    except DecodeFailed as error:
        raise UserError(f"{path} cannot be decoded ({error}): remove it from the folder") from error


def _difference(expected: Path, found: Path) -> Row:
    """The share of frames that equal those of the first decoder, and the mean and largest differences of all, in levels of 255."""
    if not expected.exists():
        return {}
    one, other = (np.load(path).astype(np.int16) for path in (expected, found))
    if one.shape != other.shape:
        return {"note": f"{len(other)} frames, not {len(one)}"}
    apart = np.abs(one - other)
    return {"equal frames": float((apart.max(axis=(1, 2, 3)) == 0).mean()), "mean apart": float(apart.mean()), "largest": int(apart.max())}
