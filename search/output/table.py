"""Writes moments as a CSV table that spreadsheets and pandas open as it is."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from data.base.links import file_url, time_fragment
from data.base.quoting import path_text
from data.base.whole_files import write_whole
from data.base.writable import make_folder
from search.output.rows import Row
from search.retrieval.moments import timestamp

COLUMNS = ("query", "rank", "video_id", "file", "score", "seconds", "clock", "weight", "path", "link")

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters by which a spreadsheet takes a text for a formula. A downloaded file can have such a name."""
AS_TEXT = "'"
"""Put before a text that begins with one of FORMULA, or with itself, so that removing it always gives the text back."""


def write_table(path: Path, rows: Iterable[Row]) -> int:
    """Write a line for each moment, and return how many texts got AS_TEXT in front. Raises UserError if the file cannot be written."""
    changed = 0

    def text(value: str) -> str:
        nonlocal changed
        if not value.startswith((*FORMULA, AS_TEXT)):
            return value
        changed += 1
        return AS_TEXT + value

    content = io.StringIO(newline="")
    lines = csv.writer(content)
    lines.writerow(COLUMNS)
    for row in rows:
        link = "" if row.path is None else file_url(row.path) + time_fragment(row.seconds)
        place = "" if row.path is None else path_text(row.path)
        found = (text(row.query), row.rank, text(row.video_id), text(row.file), row.score, row.seconds, timestamp(row.seconds), row.weight)
        lines.writerow((*found, place, link))
    make_folder(path.parent, "--csv")
    # With a byte-order mark, without which Excel reads another encoding.
    write_whole(path, content.getvalue().encode("utf-8-sig", "backslashreplace"))
    return changed
