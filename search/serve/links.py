"""Addresses of the served page: of a query that differs a little, and of what belongs to a result."""

from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

import flask

from search.pages.addresses import Addresses
from search.query.query import Like
from search.retrieval.files import VideoFiles
from search.searcher import Searcher
from search.serve.form import CHIPS

ABOUT_THE_QUERY = frozenset({"q", "like", "not", "weight", "skip"})
"""Fields that say what is looked for; the others, which say where and how much, stay when something else is."""


class Links(Addresses):
    """The addresses, for one request: all of them are made with the same searcher."""

    scrubs = True

    def __init__(self, searcher: Searcher, files: VideoFiles, fields: Mapping[str, Sequence[str]]) -> None:
        """`fields`: those of the query that is answered."""
        self._searcher, self._files, self._fields = searcher, files, fields
        # Each is asked for many times in one page.
        self._versions: dict[str, str] = {}
        self._players: dict[str, str] = {}

    def page(self, skip: int) -> str:
        """Another page of the same results."""
        return address({**self._fields, "skip": [str(skip)] if skip else []})

    def without(self, field: str, value: str) -> str:
        """The same query without a value of a field, from the first result on."""
        kept = [other for other in self._fields[field] if other != value]
        return address({**self._fields, field: kept, "skip": []})

    def unfiltered(self) -> str:
        """The same query without what narrows it."""
        return address({field: values for field, values in self._fields.items() if field not in (*CHIPS, "skip")})

    def words(self, text: str) -> str:
        """These words, with nothing else."""
        return address({"q": [text]})

    def like(self, video_id: str, seconds: float | None = None) -> str:
        """Results like a video, or its frame at this time, among the same videos."""
        kept = {field: values for field, values in self._fields.items() if field not in ABOUT_THE_QUERY}
        return address({"like": [str(Like(video_id, seconds))], **kept})

    def thumbnail(self, video_id: str, frame: int) -> str:
        """The thumbnail of a frame, in its present version."""
        if "thumbnails" not in self._searcher.cache.images_of(video_id):
            return ""
        if video_id not in self._versions:
            self._versions[video_id] = version(self._searcher, video_id)
        return flask.url_for("thumbnail", video_id=video_id, frame=frame, v=self._versions[video_id])

    def video(self, video_id: str) -> str:
        """The file, if it is there."""
        if video_id not in self._players:
            there = self._files.path_of(video_id) is not None
            self._players[video_id] = flask.url_for("video", video_id=video_id) if there else ""
        return self._players[video_id]

    def captions(self, video_id: str) -> str:
        """The captions that fit the video best."""
        return flask.url_for("page", captions=video_id) if self._searcher.cache.places("texts") else ""


def address(fields: Mapping[str, Sequence[str]]) -> str:
    """The address of a query."""
    return f"{flask.url_for('page')}?{urlencode(fields, doseq=True)}"


def version(searcher: Searcher, video_id: str) -> str:
    """Changes whenever the thumbnails of a video may have: when it was extracted, and how many frames the head sees."""
    number = searcher.gallery.ids.index(video_id)
    return f"{searcher.cache.written_ns(video_id):x}-{len(searcher.gallery.videos.seconds[number])}"
