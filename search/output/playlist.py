"""Writes moments as an M3U playlist, which VLC plays one after the other."""

from collections.abc import Iterable
from pathlib import Path

from data.base.links import file_url
from data.base.quoting import visible
from data.base.whole_files import write_whole
from data.base.writable import make_folder
from search.output.rows import Row
from search.retrieval.moments import timestamp


def write_playlist(path: Path, rows: Iterable[Row], around: float) -> int:
    """Write the moments whose files are known, each with `around` seconds before and after it, and return how many were left out.

    Raises UserError if the file cannot be written.
    """
    lines, left_out = ["#EXTM3U"], 0
    for row in rows:
        if row.path is None:
            left_out += 1
            continue
        begin, end = max(0.0, row.seconds - around), row.seconds + around
        title = visible(f"{row.rank} {row.video_id} {timestamp(row.seconds)}: {row.query}")
        lines += [
            f"#EXTINF:{round(end - begin)},{title}",
            f"#EXTVLCOPT:start-time={begin:.3f}",
            f"#EXTVLCOPT:stop-time={end:.3f}",
            _entry(row.path),
        ]
    make_folder(path.parent, "--m3u")
    write_whole(path, ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"))
    return left_out


def _entry(file: Path) -> str:
    """The absolute path; as an address where a line of text cannot hold it, because of a line break or a byte that is not UTF-8."""
    name = str(file.absolute())
    # Players remove spaces at the ends of a line.
    return name if name.isprintable() and name == name.strip() else file_url(file)
