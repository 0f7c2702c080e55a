"""Measures the search page under many clients: `python -m benchmarks.serving`.

Two servers run side by side on a gallery of random features: one that answers the queries that wait together, and one that answers them
one at a time (--queries-at-once 1). Clients in another process ask both alternately; every query is another one, of 3 to 11 words, and
passes a ViT-B/32 with random weights. Busy cores are the CPU seconds of the server's process by the seconds that passed. The last line
of the output is JSON.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Row
from benchmarks.search import MODEL, PRETRAINED, WORDS, make_cache
from benchmarks.serving.clients import Load, drive
from benchmarks.serving.options import ServingOptions
from benchmarks.serving.server import Server, clip_seconds, started
from data.base.errors import UserError
from data.base.provenance import provenance
from data.base.whole_files import write_json
from data.base.writable import make_folder, require_writable_file
from data.cli.command import run_command
from extract.encode.clip import load_clip

SIDES: Mapping[str, tuple[str, ...]] = {"together": (), "one at a time": ("--queries-at-once", "1")}


def queries() -> Iterator[str]:
    """Different queries without end."""
    random = np.random.default_rng(1)
    while True:
        yield " ".join(random.choice(WORDS, random.integers(3, 12)))


def figures_of(load: Load, cpu_s: float) -> Row:
    """The figures of one number of clients."""
    return {
        "requests a second": len(load.seconds) / load.wall_s,
        "median ms": load.percentile_ms(50),
        "99th percentile ms": load.percentile_ms(99),
        "cores busy": cpu_s / load.wall_s,
        "refused": load.refused,
    }


def measure(head: str, cache: Path, options: ServingOptions) -> dict[str, Row]:
    """The figures of one head: both sides for every number of clients, then start and memory."""
    ahead, counts = queries(), [int(count) for count in options.clients.split(",")]
    rounds: dict[str, list[Row]] = {}
    with started(cache, head) as together, started(cache, head, *SIDES["one at a time"]) as alone:
        servers = dict(zip(SIDES, (together, alone), strict=True))
        for server in servers.values():
            # Of every length, so that none is compared with random words for the first time.
            drive(server.address, [" ".join(WORDS[:count]) for count in range(3, 12)], 1)
        for _ in range(options.repeats):
            for count in counts:
                asked = [next(ahead) for _ in range(options.requests)]
                for side, server in servers.items():
                    row = _asked(server, asked, count)
                    rounds.setdefault(f"{side}, {count} clients", []).append(row)
                    print(f"  {head}, {side}, {count} clients: {row['requests a second']:.1f} a second", file=sys.stderr, flush=True)
        found = {name: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for name, rows in rounds.items()}
        for count in counts:
            ours, theirs = found[f"together, {count} clients"], found[f"one at a time, {count} clients"]
            ours["times one at a time"] = ours["requests a second"] / theirs["requests a second"]
            ours["times one client"] = ours["requests a second"] / found[f"together, {counts[0]} clients"]["requests a second"]
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            loading_s = pool.submit(clip_seconds, cache).result()
        found["start"] = {
            "first page s": together.first_page_s,
            "loading CLIP s": loading_s,
            "beside it s": together.first_page_s - loading_s,
        }
        if options.memory_requests:
            before = together.resident_mib()
            drive(together.address, [next(ahead) for _ in range(options.memory_requests)], max(counts))
            found["memory"] = {"MiB before": before, f"MiB after {options.memory_requests:,} requests": together.resident_mib()}
    return found


def _asked(server: Server, asked: list[str], clients: int) -> Row:
    before = server.cpu_s()
    load = drive(server.address, asked, clients)
    return figures_of(load, server.cpu_s() - before)


def main(options: ServingOptions) -> Path:
    """Measure, print the results and write them to OUT. Raises UserError for numbers of clients that are none."""
    require_writable_file(options.out)
    if not all(count.isdecimal() and int(count) > 0 for count in options.clients.split(",")):
        raise UserError(f"--clients {options.clients} must be numbers above 0, joined by commas")
    figures: dict[str, dict[str, Row]] = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = make_cache(Path(folder) / "cache", load_clip(MODEL, PRETRAINED, torch.device("cpu")), options.videos, options.frames)
        for head in options.heads.split(","):
            figures[head] = measure(head, cache.path, options)
    for head, rows in figures.items():
        print(f"{head}, {options.videos:,} videos of {options.frames} frames")
        for name, row in rows.items():
            print(f"  {name:26}", *(f"{key} {value:.4g}" for key, value in row.items()), sep="  ")
    make_folder(options.out.parent)
    write_json(options.out, {"figures": figures, "provenance": provenance(options)})
    rounded = {
        head: {name: {key: float(f"{value:.4g}") for key, value in row.items()} for name, row in rows.items()}
        for head, rows in figures.items()
    }
    print(json.dumps(rounded))
    return options.out


if __name__ == "__main__":
    run_command(ServingOptions, main, prog="python -m benchmarks.serving")
