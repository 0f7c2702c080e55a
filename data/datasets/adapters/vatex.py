"""VATEX (Wang et al. 2019), English, with the split of HGR: half of the official validation videos for validation, half for test.

Captions come in one of three forms: ref_captions.json {id: [captions]}, vatex_data.json {id: {"enCap": [captions], ...}}, or the official
vatex_training_v1.0.json and vatex_validation_v1.0.json, lists of {"videoID", "enCap", ...}. All ten English captions are used. The file
test1k5_sec_list.txt, which some projects include, is another split and is never read.
"""

import re
from pathlib import Path

from data.base.errors import UserError
from data.base.quoting import quote
from data.datasets.files import check_captions, find_file, read_json
from data.datasets.folders import Sought, VideoFolder
from data.datasets.types import SPLITS, Count, Dataset, Preset, assemble, listed_rows

CAPTION_FILES = ("ref_captions.json", "vatex_data.json")
OFFICIAL_FILES = ("vatex_training_v1.0.json", "vatex_validation_v1.0.json")

PRESETS = (
    Preset(
        "vatex",
        {split: f"{split}_list.txt" for split in SPLITS},
        {"train": Count(25_991, 259_910), "val": Count(1500, 15_000), "test": Count(1500, 15_000)},
    ),
)

# A YouTube id, which may contain underscores, and the first and last second of the clip.
_ID = re.compile(r"[\w-]{11}_\d{6}_\d{6}", re.ASCII)


def read_vatex(preset: Preset, annotations: Path, videos: Path) -> Dataset:
    """Read SPLIT_list.txt and the captions from the folder `annotations`. Videos are ID with any suffix, anywhere under `videos`."""
    source = find_file(annotations, CAPTION_FILES)
    if source is not None:
        captions = _read_by_id(source)
    elif find_file(annotations, OFFICIAL_FILES):
        source = annotations / OFFICIAL_FILES[1]
        captions = {}
        for name in OFFICIAL_FILES:
            for video_id, own in read_official(annotations / name).items():
                if video_id in captions:
                    raise UserError(f"{annotations / name}: {video_id} is in {OFFICIAL_FILES[0]} too")
                captions[video_id] = own
    else:
        raise UserError(
            f"{annotations} holds neither {' nor '.join(CAPTION_FILES)} nor {' with '.join(OFFICIAL_FILES)}: place the captions there"
        )
    folder = VideoFolder(videos)
    return assemble(
        preset, listed_rows(preset, annotations, captions, source), annotations, folder, lambda video_id: Sought(stems=(video_id,))
    )


def read_official(path: Path) -> dict[str, list[str]]:
    """The English captions of every video in an official VATEX file."""
    content = read_json(path)
    if not isinstance(content, list):
        raise UserError(f"{path} is not a list of records")
    captions: dict[str, list[str]] = {}
    for number, record in enumerate(content, start=1):
        place = f"{path}, record {number}"
        if not isinstance(record, dict) or not {"videoID", "enCap"} <= record.keys():
            raise UserError(f"{place}: it lacks 'videoID' or 'enCap'")
        video_id = _check_id(record["videoID"], place)
        if video_id in captions:
            raise UserError(f"{place}: {video_id} has a record already")
        captions[video_id] = check_captions(record["enCap"], f"{place}, 'enCap'")
    return captions


def _read_by_id(path: Path) -> dict[str, list[str]]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object of video ids")
    captions = {}
    for key, value in content.items():
        video_id = _check_id(key, str(path))
        place = f"{path}, video {video_id}"
        if isinstance(value, dict) and "enCap" not in value:
            raise UserError(f"{place}: it lacks 'enCap'")
        captions[video_id] = check_captions(value["enCap"] if isinstance(value, dict) else value, place)
    return captions


def _check_id(value: object, place: str) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise UserError(f"{place}: {quote(value)} is not a video id of VATEX (YouTubeID_ssssss_eeeeee)")
    return value
