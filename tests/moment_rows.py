"""Moments as a search finds them, for what is written of them."""

from pathlib import Path
from typing import Any

from search.output.rows import Row


def row(path: Path | None, seconds: float = 4.0, **values: Any) -> Row:
    """The moment of the first result of a query, with these values in place of the usual ones."""
    usual: dict[str, Any] = {"number": 1, "query": "a ring", "rank": 1, "video_id": "v", "file": "v.mp4", "score": 1.0, "weight": 0.5}
    return Row(**usual | values, seconds=seconds, path=path)
