"""Addresses of object stores, such as s3://bucket/prefix, where an option otherwise names a folder."""

import re
from pathlib import Path

from data.base.errors import UserError

_ADDRESS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+):/+(?P<place>[^/].*)")
LOCAL_SCHEMES = ("file", "local")
"""Schemes whose place is a path from the root."""


def address_of(path: object) -> str | None:
    """The address of a store; None for a path on this machine, or for a scheme alone. pathlib collapses s3://bucket to s3:/bucket, which
    is read as meant."""
    found = _ADDRESS.fullmatch(str(path))
    if found is None:
        return None
    root = "/" if found["scheme"] in LOCAL_SCHEMES else ""
    return f"{found['scheme']}://{root}{found['place'].rstrip('/')}"


def require_folder(path: Path, option: str) -> None:
    """Raise UserError if the path is the address of a store. `option` names it on the command line."""
    address = address_of(path)
    if address is not None:
        raise only_read(address, option)


def only_read(address: object, option: str) -> UserError:
    """The error for a cache in a store where one in a folder is needed."""
    return UserError(f"{option} {address} is in a store, and this needs the cache itself: name the folder that was published there")
