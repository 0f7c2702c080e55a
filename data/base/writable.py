"""Check before the work that a command can write its output."""

import errno
import os
import platform
import shutil
from contextlib import suppress
from pathlib import Path

from data.base.errors import UserError

PROBE_BYTES = 4096
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""errno values of a full disk, quota or file size limit."""
UNWRITABLE = (*NO_ROOM, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG)
"""NO_ROOM, and errno values of places that cannot be written at all."""
_NO_FOLDER = (errno.ENOTDIR, errno.ENOENT, errno.ELOOP)
"""errno values of a file or a broken link in place of a folder."""


def require_writable_folder(path: Path, option: str = "--out") -> None:
    """Raise UserError if files cannot be written into this folder, which need not exist. `option` names it on the command line.

    Permissions alone do not tell: root has them on a read-only disk too. So the folder is created, and a small file in it is written and
    synced. Both are removed at once, so that a command that fails later leaves nothing behind.
    """
    if os.path.lexists(path) and not os.path.isdir(path):
        kind = "a broken link" if not os.path.exists(path) else "a file"
        raise UserError(f"{option} {path} is {kind}: name a folder")
    _probe(path, ".probe", path, option)


def require_writable_file(path: Path, option: str = "--out") -> None:
    """Raise UserError if this file, or the target of this link, cannot be written atomically: under a temporary name beside it."""
    if os.path.islink(path) and not os.path.exists(path):
        raise UserError(f"{option} {path} is a broken link: name a file")
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{option} {path} is {'a folder' if os.path.isdir(path) else 'not a regular file'}: name a file")
    place = Path(os.path.realpath(path)) if os.path.islink(path) else path
    _probe(place.parent, f".{place.name}", path, option)


def make_folder(path: Path, option: str = "--out") -> None:
    """Create a folder and its parents. Raises UserError if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error, option) from error


def cannot_write(path: Path, error: OSError, option: str, part: Path | None = None) -> UserError:
    """The error for a path that cannot be written; `part` is the parent folder at fault, if known."""
    room = "make room, or " if error.errno in NO_ROOM else ""
    why = f"{part}: {error.strerror}" if part else error.strerror or error
    return UserError(f"{path} cannot be written ({why}): {room}choose another {option}")


def _probe(folder: Path, name: str, path: Path, option: str) -> None:
    """Write a file of this name into the folder, and remove it and all folders created for it. Errors name `path`."""
    # Several processes may check one path at once, so each creates and removes its own names.
    own = f"{platform.node()}.{os.getpid()}"
    there = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    top = there / f".{own}.probe"
    inner = there if there == folder else top / folder.relative_to(there)
    file = inner / f"{name}.{own}.tmp"
    try:
        os.stat(os.path.join(there, "."))
        inner.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
            os.fsync(probe)
    except OSError as error:
        raise cannot_write(path, error, option, there if error.errno in _NO_FOLDER else None) from error
    finally:
        with suppress(OSError):
            file.unlink(missing_ok=True)
        shutil.rmtree(top, ignore_errors=True)
