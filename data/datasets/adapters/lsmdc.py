"""LSMDC (Rohrbach et al. 2015): tab-separated lines of six fields without a header; the first is the clip's id, the last the sentence."""

from pathlib import Path

from data.base.errors import UserError
from data.base.quoting import quote
from data.datasets.files import check_caption, check_video_id, read_text
from data.datasets.folders import Sought, VideoFolder
from data.datasets.types import SINGLE, Count, Dataset, Preset, Row, assemble

PRESETS = (
    Preset(
        "lsmdc",
        {
            "train": "LSMDC16_annos_training.csv",
            "val": "LSMDC16_annos_val.csv",
            "test": "LSMDC16_challenge_1000_publictect.csv",
        },
        {"train": Count(101_046, 101_079), "val": Count(None, 7408), "test": Count(1000, 1000)},
        captions=SINGLE,
        batch_size=300,
    ),
)


def read_lsmdc(preset: Preset, annotations: Path, videos: Path) -> Dataset:
    """Read the three files from the folder `annotations`. Videos are ID with any suffix, in one folder per film under `videos`.

    Ids contain dots; only the last suffix of a file name is not part of the id.
    """
    rows = [row for split, name in preset.files.items() for row in _read_lines(annotations / name, split)]
    folder = VideoFolder(videos)
    return assemble(preset, rows, annotations, folder, lambda video_id: Sought(stems=(video_id,)))


def _read_lines(path: Path, split: str) -> list[Row]:
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        fields = line.removesuffix("\r").split("\t")
        place = f"{path}, line {number}"
        if len(fields) != 6:
            raise UserError(f"{place}: {len(fields)} fields between tabs instead of 6: {quote(line)}")
        rows.append(Row(check_video_id(fields[0], place), check_caption(fields[5], place), split))
    return rows
