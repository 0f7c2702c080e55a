"""MSR-VTT (Xu et al. 2016) in the files that the field shares: one JSON file of sentences, and CSV lists of the splits.

1k-A trains on 9,000 videos (7k: 7,010) and tests on 1,000 with one caption each. It has no validation split, so 500 training videos, chosen
by a hash of their ids, are held out for validation. The full protocol has three splits, with all captions of each video. The demo set uses
the files of the full protocol.

A record of a sentence may hold its `kind` (see `data.datasets.kinds`), and so may a list with sentences, as a column.
"""

from collections.abc import Iterator
from pathlib import Path

from data.base.errors import UserError
from data.base.quoting import quote
from data.datasets.files import check_caption, check_video_id, read_csv, read_json, require_file
from data.datasets.folders import Sought, VideoFolder
from data.datasets.kinds import check_kind
from data.datasets.types import SEVERAL, SINGLE, Count, Dataset, Preset, Row, assemble, rows_of

JSON_NAMES = ("MSRVTT_data.json", "MSR_VTT.json")
FULL_FILES = {"train": "MSRVTT_train.full.csv", "val": "MSRVTT_val.full.csv", "test": "MSRVTT_test.full.csv"}

PRESETS = (
    Preset(
        "msrvtt-9k",
        {"train": "MSRVTT_train.9k.csv", "test": "MSRVTT_JSFUSION_test.csv"},
        {"train": Count(8500), "val": Count(500), "test": Count(1000, 1000)},
        captions=SINGLE,
        held_out=500,
    ),
    Preset(
        "msrvtt-7k",
        {"train": "MSRVTT_train.7k.csv", "test": "MSRVTT_JSFUSION_test.csv"},
        {"train": Count(6510), "val": Count(500), "test": Count(1000, 1000)},
        captions=SINGLE,
        held_out=500,
    ),
    Preset("msrvtt-full", FULL_FILES, {"train": Count(6513), "val": Count(497), "test": Count(2990)}),
)
DEMO_PRESETS = (Preset("demo", FULL_FILES, captions=SEVERAL, max_words=64, epochs=3, lr=1e-3),)
"""The learning rate is larger because the training set is small and the steps are few."""


def read_msrvtt(preset: Preset, annotations: Path, videos: Path) -> Dataset:
    """Read the JSON file and the split lists from the folder `annotations`. Videos are ID.mp4, else ID.webm, else ID with any suffix,
    directly in `videos`."""
    folder = VideoFolder(videos, recursive=False)
    notes: list[str] = []
    rows = [*_rows(preset, annotations, notes)]

    def sought(video_id: str) -> Sought:
        return Sought(names=(f"{video_id}.mp4", f"{video_id}.webm"), stems=(video_id,))

    return assemble(preset, rows, annotations, folder, sought, notes=tuple(notes))


def _rows(preset: Preset, annotations: Path, notes: list[str]) -> Iterator[Row]:
    """The captions of all splits. Adds to `notes` a line about the kinds of each list that are not read."""
    source = require_file(annotations, JSON_NAMES)
    sentences, kinds = _read_sentences(source)
    for split, name in preset.files.items():
        path = annotations / name
        listed = read_csv(path, ("video_id",))
        ids = [check_video_id(video_id, f"{path}, row {row}") for row, video_id in enumerate(listed["video_id"], start=1)]
        if listed["video_id"].duplicated().any():
            row = int(listed["video_id"].duplicated().to_numpy().argmax())
            raise UserError(f"{path}, row {row + 1}: lists {quote(ids[row])} twice: list each video once")
        if "sentence" in listed:
            own = listed["kind"] if "kind" in listed else [""] * len(ids)
            unread = 0 if "kind" in listed else sum(kind != "" for video_id in ids for kind in kinds.get(video_id, []))
            if unread:
                notes.append(
                    f"{source.name}: {unread:,} kinds of videos of {name} are not read, because that list has their sentences: give it a "
                    "column kind"
                )
            for row, (video_id, sentence, kind) in enumerate(zip(ids, listed["sentence"], own, strict=True), start=1):
                place = f"{path}, row {row}"
                yield Row(video_id, check_caption(sentence, place), split, check_kind(kind, place))
        else:
            if "kind" in listed:
                notes.append(
                    f"{name}: its column kind is not read, because it has no sentences: give kinds to the sentences of {source.name}"
                )
            yield from rows_of(ids, split, sentences, source, name, kinds)


def _read_sentences(path: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The captions of every video, and their kinds, from either form of JSON: `sentences` with video_id, or `annotations` with image_id."""
    content = read_json(path)
    for records_key, id_key in (("sentences", "video_id"), ("annotations", "image_id")):
        records = content.get(records_key) if isinstance(content, dict) else None
        if records is None:
            continue
        if not isinstance(records, list):
            raise UserError(f"{path}: {records_key!r} is not a list of records")
        captions: dict[str, list[str]] = {}
        kinds: dict[str, list[str]] = {}
        for number, record in enumerate(records, start=1):
            place = f"{path}, record {number} of {records_key!r}"
            if not isinstance(record, dict) or not {id_key, "caption"} <= record.keys():
                raise UserError(f"{place}: it lacks {id_key!r} or 'caption'")
            video_id = check_video_id(record[id_key], place)
            captions.setdefault(video_id, []).append(check_caption(record["caption"], place))
            kinds.setdefault(video_id, []).append(check_kind(record.get("kind"), place))
        return captions, kinds
    raise UserError(f"{path} has neither 'sentences' nor 'annotations'")
