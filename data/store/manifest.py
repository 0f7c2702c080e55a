"""The manifest of a published cache: the size of every file, and a checksum of every block of it.

A store keeps each file under a key that its contents decide. So a file never changes there, and an upload that replaces the manifest last
is complete for its readers or not there at all.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data.base.errors import UserError, one_line

MANIFEST = "manifest.json"
OBJECTS = "objects"
"""Folder of the files in a store."""
FORMAT = 1
BLOCK_BYTES = 2**16
"""A candidate's frames are some 10 KiB. A request takes as long as transferring ten times this much."""
DIGEST_BYTES = 32


@dataclass(frozen=True)
class Entry:
    """A published file.

    key: its name in the store, below OBJECTS.
    digests: the SHA-256 of every block, concatenated.
    opening: the ranges of bytes that opening a cache reads: everything but features and pictures.
    """

    key: str
    size: int
    digests: bytes
    opening: tuple[tuple[int, int], ...]

    def digest(self, number: int) -> bytes:
        """The SHA-256 of a block."""
        return self.digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]


@dataclass(frozen=True)
class Manifest:
    """The files of a published cache by name.

    merged: the name of the only file of a merged cache; empty for a folder.
    """

    files: Mapping[str, Entry]
    merged: str
    block_bytes: int

    def to_bytes(self) -> bytes:
        """As JSON, with a checksum of its own."""
        files = {
            name: {"key": entry.key, "size": entry.size, "sha256": base64.b64encode(entry.digests).decode(), "opening": entry.opening}
            for name, entry in sorted(self.files.items())
        }
        value = {"format": FORMAT, "block_bytes": self.block_bytes, "merged": self.merged, "files": files}
        return json.dumps({**value, "sha256": _digest(value)}).encode()

    @classmethod
    def from_bytes(cls, content: bytes, address: str) -> "Manifest":
        """Read what `to_bytes` wrote. Raises UserError if it is damaged or of another format."""
        try:
            value: dict[str, Any] = json.loads(content)
            if value["format"] != FORMAT:
                raise UserError(f"{address} was published in format {value['format']}, this program reads {FORMAT}: publish it again")
            if value.pop("sha256") != _digest(value):
                raise ValueError("its checksum differs")
            files = {
                name: Entry(one["key"], one["size"], base64.b64decode(one["sha256"]), tuple(map(tuple, one["opening"])))
                for name, one in value["files"].items()
            }
            return cls(files, value["merged"], value["block_bytes"])
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{address}/{MANIFEST} is damaged ({one_line(error)}): publish the cache again") from error


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
