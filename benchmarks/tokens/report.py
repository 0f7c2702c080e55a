"""Run the measurements, print them as tables, and write them to a file."""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.tokens.measures import change_by_jpeg, compare_measures, require_class_token
from benchmarks.tokens.options import TokensOptions
from benchmarks.tokens.rate import measure_rate
from benchmarks.tokens.sizes import sizes
from data.base.errors import UserError
from data.base.provenance import provenance
from data.base.whole_files import write_json
from data.base.writable import make_folder, require_writable_file
from demo import generate
from demo.generate import GenerateOptions
from extract.encode.clip import check_features, load_clip
from extract.encode.image.patches import Patches
from extract.encode.models import RANDOM, find_model

JPEG_VIDEOS = 20
"""Videos to measure the change by JPEG on."""

Row = dict[str, Any]


def main(options: TokensOptions) -> Path:
    """Measure, print tables and a last line of JSON, and write OUT. Raises UserError if an option cannot be used."""
    for name, value in {"videos": options.videos, "seconds": options.seconds, "repeats": options.repeats}.items():
        if value < 1:
            raise UserError(f"--{name} {value}: must be at least 1")
    if options.demo_videos < 2:
        raise UserError(f"--demo-videos {options.demo_videos}: must be at least 2")
    require_writable_file(options.out)
    device, figures = torch.device("cpu"), dict[str, list[Row]]()
    trained = None if options.trained is None else load_clip(options.trained, None, device, patches=Patches())
    if options.trained is not None and trained is not None:
        require_class_token(trained, options.trained)
    clip = load_clip(options.model, RANDOM, device, patches=Patches())
    figures["sizes"] = sizes(check_features(find_model(options.model, RANDOM), None))
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as name:
        # One core encodes while another decodes.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
        try:
            figures["rate"] = measure_rate(options, clip, Path(name))
        finally:
            torch.set_num_threads(threads)
        if options.trained is not None and trained is not None:
            demo = generate.main(GenerateOptions(Path(name, "demo"), train=2, val=2, test=options.demo_videos, quiet=True))
            figures["measures"] = compare_measures(trained, options.trained, demo, Path(name))
            figures["stored pixels"] = [change_by_jpeg(trained, sorted((demo / "videos").iterdir())[:JPEG_VIDEOS])]
    for rows in figures.values():
        print(markdown(rows), end="\n\n")
    make_folder(options.out.parent)
    write_json(options.out, {"figures": figures, "provenance": provenance(options)})
    print(json.dumps(figures))
    return options.out


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table with one column per key. Bytes are written in GiB."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(column)) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(value: object) -> str:
    if isinstance(value, int) and value >= 2**24:
        return f"{value / 2**30:.2f} GiB"
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
