"""Tables in every form that people have them in, what is read of them, and a folder for both.

A logical table is a list of rows under HEADER.
"""

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from data.base.errors import UserError
from data.datasets import Dataset, find_preset, read_dataset, shares_of

NAMES = [*"abcdefgh"]


@pytest.fixture(scope="module")
def table_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Empty files under the names of videos, and a place for a table beside them."""
    folder = tmp_path_factory.mktemp("tables")
    (folder / "videos").mkdir()
    for name in NAMES:
        (folder / "videos" / f"{name}.mp4").touch()
    return folder


def read(folder: Path, content: str | bytes, shares: str | None = None, name: str = "table.csv") -> Dataset:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_dataset("table", find_preset("table", None, path), path, folder / "videos", shares_of(shares) if shares else None)


def refusal(folder: Path, content: str | bytes, shares: str | None = None, name: str = "table.csv") -> str:
    with pytest.raises(UserError) as error:
        read(folder, content, shares, name)
    message = str(error.value)
    assert "\n" not in message
    return message


def rows_of(dataset: Dataset) -> list[list[Any]]:
    """The rows of the captions, each with its segment."""
    table = dataset.captions.merge(dataset.videos[["video_id", "start", "end"]], on="video_id", how="left")
    return table[["video_id", "caption", "split", "start", "end"]].fillna(-1.0).to_numpy().tolist()


def workbook(rows: Iterable[list[Any]], change: Callable[[Any], None] = lambda book: None) -> bytes:
    import openpyxl  # optional, and this module is loaded for all tests

    book = openpyxl.Workbook()
    for row in rows:
        book.worksheets[0].append(row)
    change(book)
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


HEADER = ["video", "caption", "split", "video_id", "start", "end"]

Logical = list[list[Any]]


def delimited(rows: Logical, separator: str, encoding: str) -> bytes:
    file = io.StringIO()
    csv.writer(file, delimiter=separator).writerows([HEADER, *rows])
    return file.getvalue().encode(encoding)


def frame(rows: Logical) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=HEADER)


def objects(rows: Logical) -> list[dict[str, Any]]:
    return [dict(zip(HEADER, row, strict=True)) for row in rows]


def parquet(rows: Logical) -> bytes:
    file = io.BytesIO()
    frame(rows).to_parquet(file)
    return file.getvalue()


WRITERS: dict[str, Callable[[Logical], bytes]] = {
    "csv": lambda rows: delimited(rows, ",", "utf-8"),
    "csv with a mark": lambda rows: delimited(rows, ",", "utf-8-sig"),
    "semicolons": lambda rows: delimited(rows, ";", "utf-8"),
    "semicolons of Excel": lambda rows: b"sep=;\r\n" + delimited(rows, ";", "utf-8"),
    "tabs in UTF-16": lambda rows: delimited(rows, "\t", "utf-16"),
    "tabs in UTF-16 without a mark": lambda rows: delimited(rows, "\t", "utf-16-le"),
    "big-endian UTF-16": lambda rows: b"\xfe\xff" + delimited(rows, ",", "utf-16-be"),
    "UTF-32": lambda rows: delimited(rows, ",", "utf-32"),
    "bars": lambda rows: delimited(rows, "|", "utf-8"),
    "csv of pandas": lambda rows: frame(rows).to_csv().encode(),
    "all quoted": lambda rows: frame(rows).to_csv(index=False, quoting=csv.QUOTE_ALL, sep=";").encode(),
    "JSON Lines of pandas": lambda rows: frame(rows).to_json(orient="records", lines=True).encode(),
    "JSON Lines": lambda rows: "".join(f"{json.dumps(row, ensure_ascii=False)}\r\n" for row in objects(rows)).encode(),
    "a JSON list": lambda rows: json.dumps(objects(rows)).encode(),
    "an indented JSON list in UTF-16": lambda rows: json.dumps(objects(rows), indent=2).encode("utf-16"),
    "Parquet": parquet,
    "xlsx": lambda rows: workbook([HEADER, *rows]),
}


def edited(content: bytes, old: bytes, new: bytes) -> bytes:
    """A workbook with something else in its sheets."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(changed, "w") as other:
        for name in archive.namelist():
            piece = archive.read(name)
            other.writestr(name, piece.replace(old, new) if "sheet1" in name else piece)
    return changed.getvalue()


def with_format(**formats: str) -> Callable[[Any], None]:
    def change(book: Any) -> None:
        for cell, number_format in formats.items():
            book.active[cell].number_format = number_format

    return change


def outcome(folder: Path, content: bytes) -> None:
    """A data set that a cache can hold, or one line."""
    found, message = None, ""
    try:
        found = read(folder, content)
    except UserError as error:
        message = str(error)
    if found is None:
        assert not {*"\n\r"} & {*message}
        assert len(message) < 1000
        return
    found.captions.to_parquet(io.BytesIO())
    assert not found.videos["video_id"].duplicated().any()
    assert {*found.captions["video_id"]} == {*found.videos["video_id"]}
    assert not any("\n" in note for note in found.notes)
