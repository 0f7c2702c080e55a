"""A folder of an object store, through fsspec: ranges of files, several at once and tried again, and uploads.

The only file that imports fsspec. Endpoint, region and credentials come from the environment, as for every program that uses the store's
own library.
"""

import errno
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from data.base.errors import Unavailable, UserError, one_line
from data.base.writable import NO_ROOM
from data.store.address import LOCAL_SCHEMES

Result = TypeVar("Result")

WAITS_S = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each further try."""
CONNECT_S = 10
READ_S = 20
"""Seconds without an answer before a request counts as failed."""
PACKAGES = {"s3": "pip install -r requirements-s3.txt", "s3a": "pip install -r requirements-s3.txt"}
UNFINISHED = ".part"
"""Suffix of a file on a disk that is being written."""
LASTING = (FileNotFoundError, PermissionError, ValueError, TypeError, ImportError, NotImplementedError)
"""Errors that another try does not change."""
_LASTING_NAMES = ("Credential", "Validation", "NoRegion", "Profile", "Token")
"""Parts of the names of such errors in boto, which share no class."""


class Remote:
    """The folder at an address such as s3://bucket/prefix. Safe to use from several threads.

    Raises UserError if the scheme is unknown, or needs a package that is not installed.
    """

    def __init__(self, address: str) -> None:
        import fsspec  # loads late: a cache in a folder needs none of it

        self.address = address
        scheme = address.partition(":")[0]
        try:
            self._fs, self._root = fsspec.url_to_fs(address, **_options(scheme))
        except ImportError as error:
            remedy = PACKAGES.get(scheme, "install the package, or copy the cache to a folder")
            raise UserError(f"{address} needs a package that is not installed ({one_line(error)}): {remedy}") from error
        except (ValueError, TypeError, AttributeError) as error:  # the last two of file systems that need more than an address
            raise UserError(f"{address} is no address of a store ({one_line(error)}): name one such as s3://bucket/prefix") from error
        except OSError as error:
            raise self._error(error) from error
        self._in_place = scheme in LOCAL_SCHEMES
        if scheme in PACKAGES:
            # Else a store that hangs would be waited for 25 times.
            self._fs.retries = 1
        self._errors: tuple[type[Exception], ...] = (OSError, *_boto_errors(scheme))

    def whole(self, key: str) -> bytes | None:
        """A whole file; None if there is none. Raises UserError if the store cannot be reached."""
        try:
            # Not `cat`: it reads * and [ in a prefix as patterns.
            return self._tried([key], lambda keys: self._fs.cat_ranges(self._paths(keys), [None], [None], on_error="return"))[0]
        except FileNotFoundError:
            return None

    def ranges(self, wanted: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Bytes start:stop of each of these files (key, start, stop), fetched at once; fewer if a file ends before.

        Raises FileNotFoundError if a file is not there, and UserError if the store cannot be reached.
        """

        def fetch(some: list[tuple[str, int, int]]) -> list[Any]:
            keys, starts, stops = zip(*some, strict=True)
            found: list[Any] = self._fs.cat_ranges(self._paths(keys), list(starts), list(stops), on_error="return")
            # A store refuses a range that begins behind the end of a file.
            return [b"" if isinstance(one, OSError) and one.errno == errno.EINVAL else one for one in found]

        return self._tried(list(wanted), fetch)

    def sizes(self, folder: str) -> dict[str, int]:
        """The size of each file in this folder, by its key. Raises UserError if the store cannot be reached."""
        top = f"{self._root}/{folder}"

        def find() -> dict[str, int]:
            self._fs.invalidate_cache()
            return {path[len(top) + 1 :]: details["size"] for path, details in self._fs.find(top, detail=True).items()}

        return self._done(find)

    def put(self, key: str, content: Path | bytes) -> None:
        """Write a file, whole or not at all. Raises UserError if the store does not take it."""
        path = f"{self._root}/{key}"
        # A disk, unlike an object store, would show a file that is half written, or lose the one before.
        written = path + UNFINISHED if self._in_place else path
        if isinstance(content, Path):
            self._done(lambda: self._fs.put_file(str(content), written))
        else:
            self._done(lambda: self._fs.pipe_file(written, content))
        if written != path:
            self._done(lambda: self._fs.mv(written, path))

    def remove(self, key: str) -> None:
        """Remove a file, if it is there. Raises UserError if the store does not let it go."""

        def remove() -> None:
            with suppress(FileNotFoundError):
                self._fs.rm_file(f"{self._root}/{key}")

        self._done(remove)

    def _paths(self, keys: Sequence[str]) -> list[str]:
        return [f"{self._root}/{key}" for key in keys]

    def _tried(self, wanted: list[Any], fetch: Callable[[list[Any]], list[Any]]) -> list[bytes]:
        """What `fetch` returns for each item, trying again for those for which it returns an error that may pass."""
        found: dict[int, bytes] = {}
        left = list(range(len(wanted)))
        for wait in (*WAITS_S, None):
            answers = dict(zip(left, fetch([wanted[i] for i in left]), strict=True))
            failed = {i: answer for i, answer in answers.items() if isinstance(answer, Exception)}
            found |= {i: answer for i, answer in answers.items() if i not in failed}
            left = list(failed)
            if not failed:
                break
            worst = next((error for error in failed.values() if _lasts(error)), next(iter(failed.values())))
            if isinstance(worst, FileNotFoundError):
                raise worst
            if wait is None or _lasts(worst):
                raise self._error(worst) from worst
            time.sleep(wait)
        return [found[i] for i in range(len(wanted))]

    def _done(self, act: Callable[[], Result]) -> Result:
        """Do something with the store, trying again after errors that may pass."""
        for wait in WAITS_S:
            try:
                return act()
            except self._errors as error:
                if _lasts(error):
                    raise self._error(error) from error
                time.sleep(wait)
        try:
            return act()
        except self._errors as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> UserError:
        if isinstance(error, FileNotFoundError):
            return UserError(f"{self.address} is not there ({one_line(error)}): make the bucket or folder first, or name another")
        if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
            return UserError(f"{self.address} refuses access ({one_line(error)}): set credentials that may use it")
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return UserError(f"{self.address} has no room ({one_line(error)}): make room there, then run again")
        return Unavailable(f"{self.address} cannot be reached ({one_line(error)}): check the network and the store, then run again")


def _lasts(error: Exception) -> bool:
    """Whether trying again cannot help."""
    full = isinstance(error, OSError) and error.errno in NO_ROOM
    return full or isinstance(error, LASTING) or any(part in type(error).__name__ for part in _LASTING_NAMES)


def _options(scheme: str) -> dict[str, Any]:
    """Options of fsspec's file system."""
    if scheme in LOCAL_SCHEMES:
        return {"auto_mkdir": True}
    if scheme not in PACKAGES:
        return {}
    # This program tries again itself, the same way for every store.
    retries = {"mode": "standard", "total_max_attempts": 1}
    return {"config_kwargs": {"connect_timeout": CONNECT_S, "read_timeout": READ_S, "retries": retries}, "use_listings_cache": False}


def _boto_errors(scheme: str) -> tuple[type[Exception], ...]:
    """What the libraries below s3fs raise beside OSError."""
    if scheme not in PACKAGES:
        return ()
    from aiohttp import ClientError as ConnectionFailed
    from botocore.exceptions import BotoCoreError, ClientError

    return BotoCoreError, ClientError, ConnectionFailed
