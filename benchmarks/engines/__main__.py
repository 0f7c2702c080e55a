"""Measures the engines of candidates side by side: `python -m benchmarks.engines`. docs/design/scale.md reports its results.

Fills each engine with the frames of a synthetic gallery (benchmarks.engines.world), queries it, and adds 1% of new videos, one engine after
another. Queries are timed one at a time: by default, and at equal recall of the exact 100 nearest videos, with and without exact scores of
the candidates. Memory is the peak of the processes. The last line of the output is JSON.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from benchmarks.engines.codes import code_recall, real_frames, synthetic_frames
from benchmarks.engines.measures import CANDIDATES, EngineKind, alone, measure_engine, ratios, same_candidates
from benchmarks.engines.options import EnginesOptions
from benchmarks.engines.world import DIMENSION, Distribution, Resampled, make_galleries, nearest_videos, widened
from benchmarks.measure import Row
from benchmarks.synthetic import FrameDistribution
from data.base.errors import UserError
from data.base.provenance import provenance
from data.base.whole_files import write_json
from data.base.writable import make_folder, require_writable_file
from data.cache import FeatureCache
from data.cli.command import run_command
from train_head.scoring.splits import load_split


def main(options: EnginesOptions) -> Path:
    """Measure, print the results and write them to OUT. Raises UserError if there is no demo cache, or for an unknown engine."""
    require_writable_file(options.out)
    engines: list[EngineKind] = [kind for kind in get_args(EngineKind) if kind in options.engines.split(",")]
    if not engines or len(engines) != len(options.engines.split(",")):
        raise UserError(f"--engines {options.engines} must be one or more of {', '.join(get_args(EngineKind))}, joined by commas")
    for cache in filter(None, (options.cache, options.enlarged)):
        if not cache.exists():
            raise UserError(f"the cache {cache} does not exist: create it with make demo, or python -m experiments.fullsize")
    work = options.work or Path(tempfile.mkdtemp())
    make_folder(work)
    figures: dict[str, Row] = {}

    def add(name: str, row: Row) -> Row:
        figures[name] = row
        print(name, *(f"  {key:60} {value:12.4g}" for key, value in row.items()), sep="\n", flush=True)
        return row

    try:
        split, random = load_split(FeatureCache(options.cache), "test", None, 2**33), np.random.default_rng(1)
        distribution: Distribution = Resampled.of(split, DIMENSION, random)
        if options.normal:
            distribution = widened(FrameDistribution.of(split), DIMENSION, random)
        sizes = {kind: options.lite_videos if kind == "lite" else options.videos for kind in engines}
        for videos in sorted(set(sizes.values())):
            here: list[EngineKind] = [kind for kind in engines if sizes[kind] == videos or kind == "faiss"]
            folder = work / f"{videos}"
            caches = _galleries(folder, distribution, videos)
            exact_AK = nearest_videos(FeatureCache(caches[0]), CANDIDATES)
            rows = {}
            for kind in here:
                load = os.getloadavg()[0]
                rows[kind] = add(f"{kind}, {videos:,} videos", measure_engine(kind, caches, exact_AK, folder) | {"load before": load})
            if "faiss" in rows:
                for name, row in ratios(rows, "faiss").items():
                    add(f"{name} over faiss, {videos:,} videos", row)
        small = _galleries(work / "exhaustive", distribution, min(options.videos, 3000))
        add("exhaustive search, share of queries with the same candidates", same_candidates(engines, small[0], work / "exhaustive"))
        if options.codes:
            add("product codes, synthetic frames", alone(code_recall, synthetic_frames, work / f"{options.videos}" / "cache"))
            if options.enlarged is not None:
                add("product codes, frames of the demo", alone(code_recall, real_frames, options.enlarged))
    finally:
        if options.work is None:
            shutil.rmtree(work)
    make_folder(options.out.parent)
    write_json(options.out, {"figures": figures, "threads": torch.get_num_threads(), "provenance": provenance(options)})
    print(json.dumps(figures))
    return options.out


def _galleries(folder: Path, distribution: Distribution, videos: int) -> tuple[Path, Path]:
    """The caches in this folder, which are made if they are not there."""
    if not (folder / "made").exists():
        make_folder(folder)
        make_galleries(folder, distribution, videos)
        (folder / "made").touch()
    return folder / "cache", folder / "grown"


if __name__ == "__main__":
    run_command(EnginesOptions, main, prog="python -m benchmarks.engines")
