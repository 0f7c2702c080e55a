"""Results as a table for people."""

from collections.abc import Iterator, Sequence
from typing import Any

from train_head.splits import counts_line

METRICS_FILE = "metrics.json"
COLUMNS = ("R@1", "R@5", "R@10", "MdR", "MnR")


def format_rows(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of metrics.json as text: how much of each split was scored, then text to video, video to text, RSum, and what to know."""
    counted = [counts_line(row["preset"], row["split"], row["counts"]) for row in rows]
    # One line where all rows were measured on the same.
    head = counted[:1] if len(set(counted)) == 1 else [f"{row['run']}: {line}" for row, line in zip(rows, counted, strict=True)]
    width = max(len("run"), *(len(row["run"]) for row in rows))
    figures = " ".join(f"{name:>6}" for name in COLUMNS)
    lines = [
        *head,
        f"{'':{width}}  {'':5} {'':>7} {'':>7}  {'text to video':^{len(figures)}}  {'video to text':^{len(figures)}}",
        f"{'run':{width}}  {'split':5} {'queries':>7} {'gallery':>7}  {figures}  {figures}  {'RSum':>6}",
    ]
    for row in rows:
        cells = "  ".join(" ".join(f"{row[direction][name]:6.1f}" for name in COLUMNS) for direction in ("text_to_video", "video_to_text"))
        lines.append(f"{row['run']:{width}}  {row['split']:5} {row['queries']:7} {row['gallery']:7}  {cells}  {row['RSum']:6.1f}")
    return "\n".join([*lines, *(note for row in rows for note in _notes(row))])


def _notes(row: dict[str, Any]) -> Iterator[str]:
    if row["selected_on"] is not None:
        chosen = f"epoch chosen on {row['selected_on']}"
        if row["selected_on"] == "test":
            chosen += ", as the field does: it is no figure on unseen data"
        yield f"{row['run']}: trained on {row['train_videos']:,} videos; {chosen}"
    if row["ties"] == "reference":
        entries = " and ".join(f"{row[direction]['entries']:,}" for direction in ("text_to_video", "video_to_text"))
        yield f"{row['run']}: ties counted as the field does, {entries} entries"
