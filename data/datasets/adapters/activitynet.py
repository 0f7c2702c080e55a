"""ActivityNet Captions (Krishna et al. 2017): the sentences of a video, in the order of the file, form one paragraph.

The field tests on val_1 and has no other split to choose an epoch by, so 500 training videos are held out for validation. val_2, a second
description of the videos of val_1, is not read.
"""

import math
from pathlib import Path

from data.base.errors import UserError
from data.base.quoting import quote
from data.datasets.files import check_caption, check_captions, check_video_id, read_json
from data.datasets.folders import Sought, VideoFolder
from data.datasets.types import PARAGRAPH, Count, Dataset, Preset, Row, assemble
from data.span import Span

PRESETS = (
    Preset(
        "activitynet",
        {"train": "train.json", "test": "val_1.json"},
        {"train": Count(9509, 9509), "val": Count(500, 500), "test": Count(4917, 4917)},
        captions=PARAGRAPH,
        max_words=64,
        max_frames=64,
        epochs=20,
        batch_size=112,
        seconds="0 to ceil(duration)",
        held_out=500,
    ),
)


def read_activitynet(preset: Preset, annotations: Path, videos: Path) -> Dataset:
    """Read train.json and val_1.json from the folder `annotations`. Videos are ID, with or without its prefix v_, and any suffix."""
    rows: list[Row] = []
    spans: dict[str, Span] = {}
    for split, name in preset.files.items():
        for video_id, (duration, paragraph) in read_paragraphs(annotations / name).items():
            rows.append(Row(video_id, paragraph, split))
            # The field samples seconds 0 to ceil(duration), both included.
            spans[video_id] = Span(end=math.ceil(duration) + 1.0)

    def sought(video_id: str) -> Sought:
        return Sought(stems=(video_id, video_id.removeprefix("v_")))

    return assemble(preset, rows, annotations, VideoFolder(videos), sought, spans.__getitem__)


def read_paragraphs(path: Path) -> dict[str, tuple[float, str]]:
    """The duration in seconds and the paragraph of every video in an annotation file."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object of video ids")
    read = {}
    for key, record in content.items():
        place = f"{path}, video {check_video_id(key, str(path))}"
        if not isinstance(record, dict) or not {"duration", "sentences"} <= record.keys():
            raise UserError(f"{place}: it lacks 'duration' or 'sentences'")
        duration = record["duration"]
        if not isinstance(duration, int | float) or isinstance(duration, bool) or not 0 < duration < 1e6:
            raise UserError(f"{place}: the duration {quote(duration)} is not a number of seconds")
        paragraph = " ".join(check_captions(record["sentences"], place))
        read[key] = (float(duration), check_caption(paragraph, place))
    return read
