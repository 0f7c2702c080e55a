"""Looks at the folders of a server's videos, extracts what is new, and gives the server a searcher of what is there now."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from threading import Event, Thread
from time import monotonic
from types import TracebackType
from typing import Any, Self

from data.base.errors import LostProcess, UserError
from data.base.quoting import visible
from data.cache import FeatureCache
from data.cache.listings import Listings
from extract.failures import read_failures
from search.index import faiss_store
from search.index.candidates import index_for
from search.index.commands import FillOptions
from search.retrieval.listed import listed_videos
from search.searcher import Searcher
from search.serve.answering import Answering
from search.serve.options import ServeOptions
from search.watch.folders import Seen, WatchedFolder, look
from search.watch.process import ExtractionProcess
from search.watch.status import Status, Unread

RETRY_S = 60.0
"""Seconds until what failed is tried again, unless the folder changes before."""


class Watcher:
    """A thread that watches folders while it is entered as a context manager."""

    def __init__(self, options: ServeOptions, answering: Answering, folders: Sequence[WatchedFolder]) -> None:
        self._options, self._answering, self._folders = options, answering, folders
        self._status = Status(tuple(str(folder.path) for folder in folders))
        self._seen: dict[str, Seen] = {}
        self._done: dict[str, Seen] = {}
        """By source, the finished files that the gallery is known to hold, or that could not be decoded."""
        self._failed: dict[str, _Failed] = {}
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="watching", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopped.set()
        self._thread.join()

    def status(self) -> Status:
        """What is being done now, for any thread."""
        if self._thread.is_alive() or self._stopped.is_set():
            return self._status
        return replace(self._status, reading="", since=None, error="an error has ended it: see the terminal, and start the server again")

    def _run(self) -> None:
        while True:
            self._look()
            if self._stopped.wait(self._options.watch_every):
                return

    def _look(self) -> None:
        """Look at every folder once, and bring the gallery up to date with those that have changed."""
        growing = pending = 0
        for folder in self._folders:
            if self._stopped.is_set():
                return
            try:
                seen = look(folder.path)
                if not seen:
                    raise UserError(f"{folder.path} holds no video files any more: the gallery stays as it was")
            except UserError as error:
                self._fail(folder, {}, str(error))
                continue
            before = self._seen.get(folder.name)
            self._seen[folder.name] = seen
            finished = {path: stamp for path, stamp in seen.items() if before is not None and before.get(path) == stamp}
            growing += 0 if before is None else len(seen) - len(finished)
            if finished == self._done.get(folder.name):
                self._failed.pop(folder.name, None)  # the folder is back
            elif finished and self._is_due(folder, finished):
                self._update(folder, finished)
            pending += finished != self._done.get(folder.name)
        errors = "; ".join(failed.error for failed in self._failed.values())
        done = not (growing or pending or errors)
        self._show(reading="", growing=growing, error=errors, since=(self._status.since or datetime.now()) if done else None)

    def _is_due(self, folder: WatchedFolder, finished: Seen) -> bool:
        """Whether to try now: not if the same failed a moment ago."""
        failed = self._failed.get(folder.name)
        return failed is None or failed.files != finished or monotonic() - failed.at >= RETRY_S

    def _update(self, folder: WatchedFolder, finished: Seen) -> None:
        """Extract what is new of these files, and have each searched as soon as it is written."""
        written = 0
        # What was being written is whole.
        self._show(growing=0, since=None)
        try:
            with ExtractionProcess(folder.extraction, finished) as process:
                for step in process.steps(self._stopped):
                    self._show(reading=step.reading, number=step.number, count=step.count, since=None)
                    if step.written > written or not written:
                        written = step.written
                        # Too few videos yet, perhaps. At the end, the reason is shown.
                        with suppress(UserError):
                            self._reopen()
            if self._stopped.is_set():
                return
            self._reopen()
            self._show(unread=self._unread())
        except (UserError, LostProcess, OSError) as error:
            reading = f" while it read {self._status.reading}" if isinstance(error, LostProcess) and self._status.reading else ""
            self._fail(folder, finished, f"{error}{reading}")
        else:
            self._done[folder.name] = finished
            self._failed.pop(folder.name, None)

    def _fail(self, folder: WatchedFolder, files: Seen, error: str) -> None:
        before = self._failed.get(folder.name)
        if before is None or before.error != error:
            print(visible(f"watching {folder.path}: {error}; trying again"), file=sys.stderr)
        self._failed[folder.name] = _Failed(error, files, monotonic())

    def _reopen(self) -> None:
        """Give the server a searcher of the cache as it is now, if the gallery has changed. The old one answers meanwhile."""
        old, cache = self._answering.searcher, FeatureCache(self._options.cache)
        files = listed_videos(self._options, cache)
        if files == old.files and cache.fingerprint(list(files)) == old.cache.fingerprint(list(files)):
            return
        if not files:
            raise UserError(f"none of the videos that {self._options.cache} lists is extracted: the gallery stays as it was")
        self._update_index(old, cache, files)
        self._answering.replace(old.reopened())

    def _update_index(self, old: Searcher, cache: FeatureCache, files: Mapping[str, str]) -> None:
        """Bring the index of candidates up to date as search.add does, unless it lives in memory and is made with the searcher."""
        options = self._options
        if options.index is None or options.candidates is None:
            return
        vectors = index_for(options.candidates_from)
        fill = FillOptions(
            cache=options.cache, index=options.index, name=options.name, candidates_from=vectors, max_frames=old.max_frames, quiet=True
        )
        for _ in faiss_store.fill(fill, cache, list(files)):
            pass

    def _unread(self) -> tuple[Unread, ...]:
        """The listed videos of all folders that could not be decoded."""
        listings, failures = Listings(self._options.cache), read_failures(self._options.cache)
        listed = dict.fromkeys(video_id for folder in self._folders for video_id in listings.videos(folder.name)["video_id"])
        return tuple(Unread(video_id, failures[video_id].reason) for video_id in listed if video_id in failures)

    def _show(self, **values: Any) -> None:
        self._status = replace(self._status, **values)


@dataclass(frozen=True)
class _Failed:
    """An attempt that failed: why, with which files, and when (`monotonic`)."""

    error: str
    files: Seen
    at: float
