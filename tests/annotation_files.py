"""Small annotation files in the forms that the field distributes, for every data set: 20 training, 3 validation and 4 test videos."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.datasets import Dataset, find_preset, read_dataset

COUNTS = {"train": 20, "val": 3, "test": 4}


def numbers() -> dict[str, list[int]]:
    """A number for every video of the splits."""
    first, found = 0, {}
    for split, count in COUNTS.items():
        found[split] = list(range(first, first + count))
        first += count
    return found


def _lists(folder: Path, name: Callable[[int], str]) -> list[str]:
    ids = {split: [name(i) for i in own] for split, own in numbers().items()}
    for split, own in ids.items():
        (folder / f"{split}_list.txt").write_text("\n".join(own))
    return [video_id for own in ids.values() for video_id in own]


def _json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def write_msrvtt(folder: Path) -> None:
    ids = {split: [f"video{i}" for i in own] for split, own in numbers().items()}
    sentences = [{"video_id": i, "caption": f"{n} of {i}", "sen_id": n} for own in ids.values() for i in own for n in range(2)]
    _json(folder / "MSRVTT_data.json", {"videos": [], "sentences": sentences})
    for split, own in ids.items():
        (folder / f"MSRVTT_{split}.full.csv").write_text("video_id\n" + "\n".join(own) + "\n")
    (folder / "MSRVTT_train.9k.csv").write_text("video_id\n" + "\n".join(ids["train"]) + "\n")
    rows = [f"ret{n},msr{n},{i},the sentence of {i}" for n, i in enumerate(ids["test"])]
    (folder / "MSRVTT_JSFUSION_test.csv").write_text("key,vid_key,video_id,sentence\n" + "\n".join(rows) + "\n")


def didemo_name(i: int) -> str:
    """Video 0 has a name that ends in a dot, as some genuine ones."""
    return f"10@N0{i}_{i}_ab." if i == 0 else f"10@N0{i}_{i}_ab.mov"


def write_didemo(folder: Path) -> None:
    _lists(folder, didemo_name)
    for split, own in numbers().items():
        # Two descriptions a video, not side by side, and one under another suffix, which the list does not name.
        records = [(didemo_name(i), f"part {n} of {i}\n") for n in range(2) for i in own] + [(f"10@N0{own[-1]}_{own[-1]}_ab.avi", "other")]
        fields = {"num_segments": 6, "dl_link": "", "times": [[0, 0]] * 4}
        _json(
            folder / f"{split}_data.json",
            [{**fields, "video": v, "description": d, "annotation_id": n} for n, (v, d) in enumerate(records)],
        )


def vatex_id(i: int) -> str:
    return f"a_b-{i:07d}_000010_000020"


def write_vatex(folder: Path, form: str = "ref_captions.json") -> None:
    ids = _lists(folder, vatex_id)
    captions = {video_id: [f"caption {n}  of {video_id}" for n in range(10)] for video_id in ids}
    if form == "official":
        half = [{"videoID": video_id, "enCap": own, "chCap": own} for video_id, own in captions.items()]
        _json(folder / "vatex_training_v1.0.json", half[: COUNTS["train"]])
        _json(folder / "vatex_validation_v1.0.json", half[COUNTS["train"] :])
    elif form == "vatex_data.json":
        _json(folder / form, {video_id: {"enCap": own, "chCap": []} for video_id, own in captions.items()})
    else:
        _json(folder / form, captions)


def write_msvd(folder: Path, form: str = "captions_msvd.json") -> None:
    ids = _lists(folder, lambda i: f"-4wsuPCjDB{i}_5_15")
    captions = {video_id: [f"a squirrel eats {n}" for n in (0, 1, 1)] for video_id in ids}
    if form == "raw-captions.pkl":
        tokens = {video_id: [caption.split() for caption in own] for video_id, own in captions.items()}
        (folder / form).write_bytes(pickle.dumps(tokens))
    else:
        _json(folder / form, captions)


def lsmdc_id(i: int) -> str:
    return f"100{i}_Juno_00.00.{i:02d}.161-00.00.{i:02d}.980"


def write_lsmdc(folder: Path) -> None:
    names = {"train": "LSMDC16_annos_training.csv", "val": "LSMDC16_annos_val.csv", "test": "LSMDC16_challenge_1000_publictect.csv"}
    for split, own in numbers().items():
        lines = [f'{lsmdc_id(i)}\t00:00\t00:01\t00:00\t00:01\tSOMEONE says "{i}", and goes.' for i in own]
        (folder / names[split]).write_text("\n".join(lines) + "\n")


def write_activitynet(folder: Path) -> None:
    for name, own in (("train.json", numbers()["train"]), ("val_1.json", numbers()["test"])):
        record = {"duration": 55.15, "timestamps": [[0.28, 55.15], [13.79, 54.32]], "sentences": ["A ring.", "  A star\n turns. "]}
        _json(folder / name, {f"v_{i:011d}": record for i in own})


WRITERS: dict[str, Callable[[Path], None]] = {
    "msrvtt": write_msrvtt,
    "didemo": write_didemo,
    "vatex": write_vatex,
    "msvd": write_msvd,
    "lsmdc": write_lsmdc,
    "activitynet": write_activitynet,
}


def read(dataset: str, annotations: Path, videos: Path | None = None, preset: str | None = None) -> Dataset:
    """A data set from a folder of annotations; the same folder stands for the videos where none is named."""
    return read_dataset(dataset, find_preset(dataset, preset, annotations), annotations, videos or annotations)
