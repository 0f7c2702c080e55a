"""DiDeMo (Anne Hendricks et al. 2017): the descriptions of a video, joined in the order of the records, form one paragraph.

A description belongs to the listed video of exactly the same name. The records name some videos under two suffixes, the lists under one, so
71 descriptions of val and 89 of test are left out, as in the field. The preset didemo-stems includes them.

A record may hold the `kind` of its description (see `data.datasets.kinds`); a paragraph has a kind if its descriptions have the same.
"""

from dataclasses import replace
from pathlib import Path

from data.base.errors import UserError
from data.base.quoting import quote
from data.datasets.files import check_caption, read_ids, read_json
from data.datasets.folders import Sought, VideoFolder
from data.datasets.kinds import agreed, check_kind
from data.datasets.types import PARAGRAPH, SPLITS, Count, Dataset, Preset, Row, assemble, rows_of
from data.span import Span

FILES = {split: f"{split}_list.txt" for split in SPLITS}
EXPECTED = {"train": Count(8392, 8392), "val": Count(1065, 1065), "test": Count(1004, 1004)}

DIDEMO = Preset("didemo", FILES, EXPECTED, captions=PARAGRAPH, max_words=64, max_frames=64, seconds="0 to 31", epochs=20, batch_size=64)
PRESETS = (DIDEMO, replace(DIDEMO, name="didemo-stems", by_stem=True))

END = 32.0
"""The field samples seconds 0 to 31, both included."""


def read_didemo(preset: Preset, annotations: Path, videos: Path) -> Dataset:
    """Read SPLIT_list.txt and SPLIT_data.json from the folder `annotations`.

    The file of a video is its listed name, that name plus .mp4, or the stem of the name with any video suffix.
    """
    rows: list[Row] = []
    notes = []
    for split, name in preset.files.items():
        source = annotations / f"{split}_data.json"
        ids = read_ids(annotations / name)
        listed = {_stem(video_id) if preset.by_stem else video_id: video_id for video_id in ids}
        descriptions: dict[str, list[str]] = {}
        kinds: dict[str, list[str]] = {}
        dropped = 0
        for video, description, kind in _read_records(source):
            video_id = listed.get(_stem(video) if preset.by_stem else video)
            if video_id is None:
                dropped += 1
            else:
                descriptions.setdefault(video_id, []).append(description)
                kinds.setdefault(video_id, []).append(kind)
        if dropped:
            notes.append(f"{dropped} descriptions of {source.name} are left out: {name} does not name their videos")
        paragraphs = {video_id: [" ".join(parts)] for video_id, parts in descriptions.items()}
        mixed = sum(len({*own}) > 1 for own in kinds.values())
        if mixed:
            notes.append(f"{mixed} paragraphs of {source.name} join descriptions of several kinds, and have none")
        rows += rows_of(ids, split, paragraphs, source, name, {video_id: [agreed(own)] for video_id, own in kinds.items()})

    def sought(video_id: str) -> Sought:
        return Sought(names=(video_id, f"{video_id}.mp4"), stems=(_stem(video_id),))

    return assemble(preset, rows, annotations, VideoFolder(videos), sought, spans=lambda _video_id: Span(end=END), notes=tuple(notes))


def _stem(name: str) -> str:
    """The name up to its last dot. Some names end in a dot."""
    return name.rpartition(".")[0] or name


def _read_records(path: Path) -> list[tuple[str, str, str]]:
    """The video, the description and its kind of every record, in order."""
    content = read_json(path)
    if not isinstance(content, list):
        raise UserError(f"{path} is not a list of records")
    records = []
    for number, record in enumerate(content, start=1):
        place = f"{path}, record {number}"
        if not isinstance(record, dict) or not isinstance(record.get("video"), str) or "description" not in record:
            raise UserError(f"{place}: it lacks 'video' or 'description': {quote(record)}")
        records.append((record["video"], check_caption(record["description"], place), check_kind(record.get("kind"), place)))
    return records
