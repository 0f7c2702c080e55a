"""MSR-VTT (Xu et al. 2016) in the files the field shares: one JSON of sentences, and CSV lists of the splits.

1k-A trains on 9,000 videos (7k: 7,010) and tests on 1,000 with one caption each. It has no validation split of its own, so 500 training
videos, chosen by a hash of their ids, are kept for validation. The demo set comes in the same files, split as MSR-VTT's full protocol.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd

from data.datasets.types import Dataset, Preset, check_video_id, find_file, read_csv, require_columns
from data.errors import UserError

JSON_NAMES = ["MSRVTT_data.json", "MSR_VTT.json"]
HELD_OUT_VIDEOS = 500

PRESETS = (
    Preset("msrvtt-9k", {"train": "MSRVTT_train.9k.csv", "test": "MSRVTT_JSFUSION_test.csv"}),
    Preset("msrvtt-7k", {"train": "MSRVTT_train.7k.csv", "test": "MSRVTT_JSFUSION_test.csv"}),
    Preset(
        "demo",
        {"train": "MSRVTT_train.full.csv", "val": "MSRVTT_val.full.csv", "test": "MSRVTT_test.full.csv"},
        max_words=40,
        max_frames=12,
    ),
)


def read_msrvtt(preset: Preset, annotations: Path, videos: Path) -> Dataset:
    """Read the JSON and the split lists from the folder `annotations`; videos are ID.mp4, else ID.webm."""
    json_path = find_file(annotations, JSON_NAMES)
    if json_path is None:
        raise UserError(f"{annotations} holds neither {' nor '.join(JSON_NAMES)}: place the sentences of MSR-VTT there")
    sentences = _read_sentences(json_path)
    parts = []
    for split, name in preset.files.items():
        listed = read_csv(annotations / name)
        require_columns(listed, ("video_id",), annotations / name)
        if listed["video_id"].duplicated().any() and "sentence" not in listed:
            twice = listed["video_id"][listed["video_id"].duplicated()].iloc[0]
            raise UserError(f"{annotations / name} lists {twice} twice: a video belongs there once")
        if "sentence" in listed:
            part = listed[["video_id", "sentence"]].rename(columns={"sentence": "caption"})
        else:
            part = sentences[sentences["video_id"].isin(set(listed["video_id"]))]
            without = sorted(set(listed["video_id"]) - set(part["video_id"]))
            if without:
                raise UserError(f"{json_path} has no sentence for {len(without)} videos of {name}, such as {without[0]}")
        parts.append(part.assign(split=split))
    captions = pd.concat(parts, ignore_index=True)
    if "val" not in preset.files:
        captions.loc[captions["video_id"].isin(_held_out(captions)) & (captions["split"] == "train"), "split"] = "val"
    in_splits = captions[["video_id", "split"]].drop_duplicates()
    shared = in_splits["video_id"][in_splits["video_id"].duplicated()]
    if not shared.empty:
        raise UserError(f"{annotations}: {shared.iloc[0]} is in two splits of {preset.name}")
    ids = [check_video_id(video_id, annotations) for video_id in captions["video_id"].drop_duplicates()]
    files = [find_file(videos, [f"{video_id}.mp4", f"{video_id}.webm"]) for video_id in ids]
    return Dataset(captions, pd.DataFrame({"video_id": ids, "file": files, "start": float("nan"), "end": float("nan")}))


def _held_out(captions: pd.DataFrame) -> set[str]:
    """The training videos kept for validation: those whose ids have the smallest hashes, whatever else is in the list."""
    train = captions.loc[captions["split"] == "train", "video_id"].unique()
    by_hash = sorted(train, key=lambda video_id: hashlib.sha256(video_id.encode()).hexdigest())
    # Of a small list (a trial on part of the data) no more than a tenth.
    return set(by_hash[: min(HELD_OUT_VIDEOS, len(by_hash) // 10)])


def _read_sentences(path: Path) -> pd.DataFrame:
    """Columns video_id, caption from either JSON form: `sentences` with video_id, or `annotations` with image_id."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    for records_key, id_key in (("sentences", "video_id"), ("annotations", "image_id")):
        records = content.get(records_key) if isinstance(content, dict) else None
        if records is None:
            continue
        try:
            rows = [(record[id_key], record["caption"]) for record in records]
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: a record of {records_key!r} lacks {id_key!r} or 'caption'") from error
        if not all(isinstance(value, str) for row in rows for value in row):
            raise UserError(f"{path}: a record of {records_key!r} has a {id_key!r} or 'caption' that is no text")
        return pd.DataFrame(rows, columns=["video_id", "caption"])
    raise UserError(f"{path} has neither 'sentences' nor 'annotations'")
