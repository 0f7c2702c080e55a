"""Whether a command can write where it will have to, found out before its work."""

import errno
import os
import platform
import shutil
from contextlib import suppress
from pathlib import Path

from data.base.errors import UserError

PROBE_BYTES = 4096
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where a disk, a quota or a limit is full."""
UNWRITABLE = (*NO_ROOM, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG)
"""The same, and what it says where nothing may be written at all."""
_NO_FOLDER = (errno.ENOTDIR, errno.ENOENT, errno.ELOOP)
"""What it says where a file, or a link that leads nowhere, stands in place of a folder."""


def require_writable_folder(path: Path, option: str = "--out") -> None:
    """Raises UserError if files cannot be written into this folder, which need not exist yet. `option` names it on the command line.

    Permissions alone do not tell: root has them on a read-only disk too. So the folder is made, and a small file in it written and synced.
    Both are removed at once: a command that fails later leaves nothing behind.
    """
    if os.path.lexists(path) and not os.path.isdir(path):
        link = "a link that leads nowhere" if not os.path.exists(path) else "a file"
        raise UserError(f"{option} {path} is {link}: name a folder")
    _probe(path, ".probe", path, option)


def require_writable_file(path: Path, option: str = "--out") -> None:
    """The same for a file, which will be written under a temporary name beside it and renamed; of a link, for the file that it leads to."""
    if os.path.islink(path) and not os.path.exists(path):
        raise UserError(f"{option} {path} is a link that leads nowhere: name a file")
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{option} {path} is {'a folder' if os.path.isdir(path) else 'no regular file'}: name a file")
    place = Path(os.path.realpath(path)) if os.path.islink(path) else path
    _probe(place.parent, f".{place.name}", path, option)


def make_folder(path: Path, option: str = "--out") -> None:
    """Make a folder and those above it, where they are missing. Raises UserError if that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error, option) from error


def cannot_write(path: Path, error: OSError, option: str, part: Path | None = None) -> UserError:
    """The line for a path that cannot be written; `part` is the one of its folders that is at fault."""
    room = "make room, or " if error.errno in NO_ROOM else ""
    why = f"{part}: {error.strerror}" if part else error.strerror or error
    return UserError(f"{path} cannot be written ({why}): {room}choose another {option}")


def _probe(folder: Path, name: str, path: Path, option: str) -> None:
    """Write a file of this name into the folder, and remove it with what was made for it; the error is about `path`."""
    # Several processes may be given one path: what each of them makes and removes is its own.
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
