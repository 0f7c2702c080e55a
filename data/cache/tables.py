"""The tables of captions and videos beside the features, stored as Parquet with a checksum."""

import hashlib
import io
from pathlib import Path

import pandas as pd

from data.base.errors import cannot_read
from data.base.whole_files import write_whole
from data.store.path import CachePath


def captions_file(name: str) -> str:
    """File name of a source's captions."""
    return f"captions-{name}.parquet"


def videos_file(name: str) -> str:
    """File name of a source's videos."""
    return f"videos-{name}.parquet"


def options_file(name: str) -> str:
    """File name of the options that a source was extracted with."""
    return f"options-{name}.yaml"


def write_parquet(path: Path, frame: pd.DataFrame) -> None:
    """Write a table, and beside it its checksum in the format of sha256sum."""
    content = io.BytesIO()
    frame.to_parquet(content, index=False)
    write_whole(path, content.getvalue())
    write_whole(path.with_name(checksum_file(path.name)), _checksum(content.getvalue(), path))


def read_parquet(path: CachePath) -> pd.DataFrame:
    """Read a table. Raises OSError if the file cannot be read, and ValueError if it is not Parquet."""
    # Read the bytes here: pyarrow does not accept a path that is not UTF-8.
    return pd.read_parquet(io.BytesIO(path.read_bytes()))


def is_intact(table: CachePath) -> bool:
    """Whether a table exists and matches its checksum. Raises UserError if it cannot be read."""
    try:
        content, checksum = table.read_bytes(), table.with_name(checksum_file(table.name)).read_bytes()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise cannot_read(table, error) from error
    return checksum == _checksum(content, table)


def checksum_file(table: str) -> str:
    """File name of the checksum of the table with this file name."""
    return f"{table}.sha256"


def _checksum(content: bytes, table: CachePath) -> bytes:
    return f"{hashlib.sha256(content).hexdigest()}  {table.name}\n".encode()
