"""What made an artefact: options, versions, commit, date."""

import dataclasses
import json
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from data.base.sealed import written_whole
from data.base.version import CHECKOUT

PACKAGES = ("torch", "open_clip_torch", "h5py", "ffmpeg-python", "imageio-ffmpeg", "pandas", "numpy", "pillow", "safetensors")


def provenance(options: Any) -> dict[str, Any]:
    """Plain values for JSON that say what made an artefact; `options` is a stage's dataclass."""
    return {
        "options": {key: plain(value) for key, value in dataclasses.asdict(options).items()},
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def plain(value: Any) -> Any:
    """A value that JSON can hold."""
    return str(value) if isinstance(value, Path) else value


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all. Raises UserError where the disk is full."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write a text file whole or not at all. Raises UserError where the disk is full.

    A byte of a file name that is not UTF-8 is written as its escape, which JSON reads back as it was.
    """
    with written_whole(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def _commit() -> str:
    """The commit of this checkout, with "+changes" where files differ from it; "unknown" outside a checkout."""
    git = ["git", "-C", str(CHECKOUT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if changed.strip() else "")
