"""Measures an import of features against a copy: `python -m benchmarks.importing`. docs/guide/features.md reports its results.

The copy reads the same bytes, computes their SHA-256, and writes them to one file that it syncs. An import reads headers first, checks
every feature, and writes checksummed, synced parts and the listing. Both run in one process, in turn, after a first run that is not
timed. Files of earlier runs are removed before the clock starts. Memory is the growth of a process that imports once. The last line of
the output is JSON.
"""

import hashlib
import json
import os
import shutil
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from benchmarks.measure import seconds_interleaved
from data.base.provenance import provenance
from data.base.whole_files import write_json
from data.base.writable import make_folder, require_writable_file
from data.cache.hdf5 import file_bytes, write_arrays
from data.cli.command import run_command
from data.exchange.importing import import_features
from data.exchange.options import ImportOptions

ROOT = Path(__file__).parent.parent
FORMS = ("HDF5, as in a part of a cache", "safetensors", ".npy files", "Parquet", "HDF5, a dataset for each")
COPY_BYTES = 2**22

Row = dict[str, float]


@dataclass(frozen=True)
class ImportBenchmarkOptions:
    """Measure an import of features against a checksummed, synced copy."""

    videos: int = 10_000
    """Number of videos."""
    frames: int = 12
    """Frames of each."""
    dimension: int = 512
    """Width of the features, which are float16."""
    repeats: int = 7
    """Timed runs of each side."""
    out: Path = ROOT / "runs" / "benchmarks" / "importing.json"
    """Output file (JSON)."""


def write_forms(folder: Path, options: ImportBenchmarkOptions) -> dict[str, Path]:
    """The same features in every form."""
    shape = options.videos * options.frames, options.dimension
    rows_RD = np.random.default_rng(0).standard_normal(shape, dtype=np.float32).astype(np.float16)
    ids = [f"video{i}" for i in range(options.videos)]
    frames = {name: rows_RD[i * options.frames : (i + 1) * options.frames] for i, name in enumerate(ids)}
    offsets = np.arange(options.videos + 1) * options.frames
    paths = dict(
        zip(FORMS, (folder / name for name in ("packed.h5", "frames.safetensors", "npy", "frames.parquet", "each.h5")), strict=True)
    )
    packed = {"video_id": ids, "frames": rows_RD, "offsets": offsets}
    paths[FORMS[0]].write_bytes(file_bytes(lambda file: write_arrays(file, packed)))
    save_file(frames, paths["safetensors"])
    paths[".npy files"].mkdir()
    for name, array in frames.items():
        np.save(paths[".npy files"] / f"{name}.npy", array)
    vectors = pa.LargeListArray.from_arrays(np.arange(len(rows_RD) + 1) * options.dimension, pa.array(rows_RD.reshape(-1)))
    table = pa.table({"video_id": ids, "frames": pa.LargeListArray.from_arrays(offsets, vectors)})
    pq.write_table(table, paths["Parquet"], compression="none", use_dictionary=False, row_group_size=1024)
    paths[FORMS[4]].write_bytes(file_bytes(lambda file: write_arrays(file, frames)))
    return paths


def copy(source: Path, target: Path) -> None:
    """Copy a file, or all files of a folder into one, with their SHA-256, and sync."""
    sha = hashlib.sha256()
    with target.open("wb") as out:
        for path in sorted(source.iterdir()) if source.is_dir() else [source]:
            with path.open("rb") as file:
                while block := file.read(COPY_BYTES):
                    sha.update(block)
                    out.write(block)
        out.flush()
        os.fsync(out.fileno())


def import_once(source: Path, cache: Path) -> None:
    """Import into a new cache."""
    import_features(ImportOptions(cache=cache, frames=source, fps=1.0, quiet=True))


def remove(copied: Path, cache: Path) -> None:
    """Remove what both sides wrote, so that each writes new files."""
    copied.unlink(missing_ok=True)
    shutil.rmtree(cache, ignore_errors=True)


def peak_growth_mib(source: Path, cache: Path) -> float:
    """Growth of the peak memory of this process, which should be new, by one import."""
    before = _peak_mib()
    import_once(source, cache)
    return _peak_mib() - before


def _peak_mib() -> float:
    # Not getrusage: its peak includes the memory of the parent, from between fork and exec.
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def main(options: ImportBenchmarkOptions) -> Path:
    """Measure, print the results and write them to OUT."""
    require_writable_file(options.out)
    figures: dict[str, Row] = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        work = Path(folder)
        size = options.videos * options.frames * options.dimension * 2 / 2**20
        for form, source in write_forms(work, options).items():
            print(form, file=sys.stderr)
            copied, cache = work / "copy", work / "cache"
            sides = {"copy": partial(copy, source, copied), "import": partial(import_once, source, cache)}
            before = partial(remove, copied, cache)
            seconds = seconds_interleaved(sides, options.repeats, sides, before=before)
            row = {f"{name} s": statistics.median(taken) for name, taken in seconds.items()}
            pairs = zip(seconds["copy"], seconds["import"], strict=True)
            row["rate of the copy"] = statistics.median(copied / imported for copied, imported in pairs)
            row["import MiB/s"] = size / row["import s"]
            before()
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                row["peak MiB"] = pool.submit(peak_growth_mib, source, cache).result()
            figures[form] = row
    for form, row in figures.items():
        print(f"{form}, {options.videos:,} videos of {options.frames} x {options.dimension} float16")
        for name, value in row.items():
            print(f"  {name:20} {value:10.4g}")
    make_folder(options.out.parent)
    write_json(options.out, {"figures": figures, "provenance": provenance(options)})
    print(json.dumps({form: {name: float(f"{value:.4g}") for name, value in row.items()} for form, row in figures.items()}))
    return options.out


if __name__ == "__main__":
    run_command(ImportBenchmarkOptions, main, prog="python -m benchmarks.importing")
