"""Results as a table for people."""

from collections.abc import Sequence
from typing import Any

METRICS_FILE = "metrics.json"
COLUMNS = ("R@1", "R@5", "R@10", "MdR", "MnR")


def format_rows(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of metrics.json as text: text to video, video to text, RSum."""
    width = max(len("run"), *(len(row["run"]) for row in rows))
    figures = " ".join(f"{name:>6}" for name in COLUMNS)
    lines = [
        f"{'':{width}}  {'':5} {'':>7} {'':>7}  {'text to video':^{len(figures)}}  {'video to text':^{len(figures)}}",
        f"{'run':{width}}  {'split':5} {'queries':>7} {'gallery':>7}  {figures}  {figures}  {'RSum':>6}",
    ]
    for row in rows:
        cells = "  ".join(" ".join(f"{row[direction][name]:6.1f}" for name in COLUMNS) for direction in ("text_to_video", "video_to_text"))
        lines.append(f"{row['run']:{width}}  {row['split']:5} {row['queries']:7} {row['gallery']:7}  {cells}  {row['RSum']:6.1f}")
    return "\n".join(lines)
