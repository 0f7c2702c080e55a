"""Provenance of an artefact: options, versions, commit, date. A record for people; no code reads it back."""

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
_VERSION = re.compile(r"^Version: *(\S+)", re.MULTILINE)


def provenance(options: Any) -> dict[str, Any]:
    """The provenance record of an artefact, as JSON values; `options` is the dataclass of a stage.

    The version of a package that is not installed is None, because no stage needs all packages.
    """
    return {
        "options": {key: json_value(value) for key, value in dataclasses.asdict(options).items()},
        "versions": {"glccl": version(), "python": platform.python_version()} | {name: installed(name) for name in packages()},
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def packages() -> list[str]:
    """The packages listed in the requirements files, except the development tools."""
    files = [file for file in sorted(CHECKOUT.glob("requirements*.txt")) if file.name != "requirements-dev.txt"]
    names = [_REQUIREMENT.match(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return sorted({name[0] for name in names if name is not None}, key=str.lower)


def json_value(value: Any) -> Any:
    """A value that JSON can represent: a Path becomes a string, and a tuple of them a list."""
    if isinstance(value, tuple):
        return [json_value(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def installed(package: str) -> str | None:
    """The version of a package, None where it is missing."""
    try:
        found = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return None
    # `found.version` parses the whole METADATA, mostly a README, as an e-mail. The version is one of its first lines.
    stated = _VERSION.search(found.read_text("METADATA") or "")
    return found.version if stated is None else stated[1]


def _commit() -> str:
    """The commit of this checkout, with "+changes" if tracked files differ from it; "unknown" outside a checkout."""
    git = ["git", "-C", str(CHECKOUT), "status", "--porcelain=v2", "--branch", "--no-ahead-behind", "-uno"]
    try:
        lines = subprocess.run(git, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    # Lines such as "# branch.oid 1a2b..." ("(initial)" before the first commit), then one for each changed file.
    head = next((line.split()[2] for line in lines if line.startswith("# branch.oid ")), "(initial)")
    changed = any(not line.startswith("#") for line in lines)
    return "unknown" if head == "(initial)" else head + ("+changes" if changed else "")
