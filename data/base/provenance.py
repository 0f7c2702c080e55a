"""What made an artefact: options, versions, commit, date. A record for people: nothing here is read back by code."""

import dataclasses
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from data.base.version import CHECKOUT, version

_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def provenance(options: Any) -> dict[str, Any]:
    """Plain values for JSON that say what made an artefact; `options` is a stage's dataclass.

    The version of a package that is not installed is None: no stage needs all of them.
    """
    return {
        "options": {key: plain(value) for key, value in dataclasses.asdict(options).items()},
        "versions": {"glccl": version(), "python": platform.python_version()} | {name: _installed(name) for name in packages()},
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def packages() -> list[str]:
    """The packages that this program can use, by the files that install them, except those that only check its code."""
    files = [file for file in sorted(CHECKOUT.glob("requirements*.txt")) if file.name != "requirements-dev.txt"]
    names = [_REQUIREMENT.match(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return sorted({name[0] for name in names if name is not None}, key=str.lower)


def plain(value: Any) -> Any:
    """A value that JSON can hold."""
    return str(value) if isinstance(value, Path) else value


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    """The commit of this checkout, with "+changes" where files differ from it; "unknown" outside a checkout."""
    git = ["git", "-C", str(CHECKOUT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if changed.strip() else "")
