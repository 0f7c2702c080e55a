"""DiDeMo (Anne Hendricks et al. 2017): the descriptions of a video, joined in the order of the records, are one paragraph.

A description belongs to a listed video whose name it has exactly. The records name some videos under two suffixes of which the lists know
one, so exact names leave out 71 descriptions of validation and 89 of test, as the field does; preset didemo-stems takes them in.
"""

from dataclasses import replace
from pathlib import Path

from data.base.errors import UserError
from data.base.quoting import quote
from data.datasets.files import check_caption, read_ids, read_json
from data.datasets.folders import Sought, VideoFolder
from data.datasets.types import PARAGRAPH, SPLITS, Count, Dataset, Preset, Row, assemble, rows_of
from data.span import Span

FILES = {split: f"{split}_list.txt" for split in SPLITS}
EXPECTED = {"train": Count(8392, 8392), "val": Count(1065, 1065), "test": Count(1004, 1004)}

DIDEMO = Preset("didemo", FILES, EXPECTED, captions=PARAGRAPH, max_words=64, max_frames=64, seconds="0 to 31", epochs=20, batch_size=64)
PRESETS = (DIDEMO, replace(DIDEMO, name="didemo-stems", by_stem=True))

END = 32.0
"""The field looks at the seconds 0 to 31, both of them whole."""


def read_didemo(preset: Preset, annotations: Path, videos: Path) -> Dataset:
    """Read SPLIT_list.txt and SPLIT_data.json from the folder `annotations`.

    The file of a listed name is the name itself, the name with .mp4 behind it, or its stem with any suffix of a video.
    """
    rows: list[Row] = []
    notes = []
    for split, name in preset.files.items():
        source = annotations / f"{split}_data.json"
        ids = read_ids(annotations / name)
        listed = {_stem(video_id) if preset.by_stem else video_id: video_id for video_id in ids}
        descriptions: dict[str, list[str]] = {}
        dropped = 0
        for video, description in _read_records(source):
            video_id = listed.get(_stem(video) if preset.by_stem else video)
            if video_id is None:
                dropped += 1
            else:
                descriptions.setdefault(video_id, []).append(description)
        if dropped:
            notes.append(f"{dropped} descriptions of {source.name} are left out: {name} does not name their videos")
        paragraphs = {video_id: [" ".join(parts)] for video_id, parts in descriptions.items()}
        rows += rows_of(ids, split, paragraphs, source, name)

    def sought(video_id: str) -> Sought:
        return Sought(names=(video_id, f"{video_id}.mp4"), stems=(_stem(video_id),))

    return assemble(preset, rows, annotations, VideoFolder(videos), sought, spans=lambda _video_id: Span(end=END), notes=tuple(notes))


def _stem(name: str) -> str:
    """The name up to its last dot. Some names end in a dot."""
    return name.rpartition(".")[0] or name


def _read_records(path: Path) -> list[tuple[str, str]]:
    """Video and description of every record, in their order."""
    content = read_json(path)
    if not isinstance(content, list):
        raise UserError(f"{path} is no list of records")
    records = []
    for number, record in enumerate(content, start=1):
        place = f"{path}, record {number}"
        if not isinstance(record, dict) or not isinstance(record.get("video"), str) or "description" not in record:
            raise UserError(f"{place}: it lacks 'video' or 'description': {quote(record)}")
        records.append((record["video"], check_caption(record["description"], place)))
    return records
