"""The handlers of the JSON interface. `description` says what each of them takes and returns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flask
from werkzeug.routing import BaseConverter

from data.base.errors import UserError
from search.output.record import answer_record, captions_record
from search.query.filters import file_day
from search.retrieval.files import VideoFiles
from search.searcher import Searcher
from search.serve.answering import Answering
from search.serve.api.description import description
from search.serve.api.reading import read_numbers, read_query
from search.serve.api.replies import PREFIX, refused, reply
from search.serve.sending import send_thumbnail, send_video

VIDEOS_LISTED = 100
"""Videos on a page of their list, unless a request says otherwise."""


class _AnyId(BaseConverter):
    """The id of a video in an address: any text, slashes included."""

    regex = "(?s:.+)"
    part_isolating = False


class Api:
    """The handlers. Each takes the searcher once, so that a request sees one gallery though another may take its place."""

    def __init__(self, answering: Answering, videos: Path | None) -> None:
        """`videos`: folder of the video files, None to send none."""
        self._answering, self._videos = answering, videos

    def register(self, app: flask.Flask) -> None:
        """Add the addresses to the application."""
        app.url_map.converters["video_id"] = _AnyId
        for path, handler, methods in (
            ("search", self.search, ("GET", "POST")),
            ("videos", self.videos, ("GET",)),
            ("videos/<video_id:video_id>", self.video, ("GET",)),
            ("files/<video_id:video_id>", self.file, ("GET",)),
            ("captions/<video_id:video_id>", self.captions, ("GET",)),
            ("thumbnails/<video_id:video_id>/<int:frame>", self.thumbnail, ("GET",)),
            ("health", self.health, ("GET",)),
            ("openapi.json", self.openapi, ("GET",)),
        ):
            # Two slashes in a row may be part of an id.
            app.add_url_rule(f"{PREFIX}{path}", f"api_{handler.__name__}", handler, methods=methods, merge_slashes=False)

    def search(self) -> flask.Response:
        """The answer to a query."""
        searcher = self._answering.searcher
        return _answered(lambda: answer_record(*self._answering.answer(read_query(flask.request, searcher.shown))))

    def videos(self) -> flask.Response:
        """Some videos of the gallery, by id."""
        return _answered(self._list_videos)

    def video(self, video_id: str) -> flask.Response:
        """What is known of a video."""
        searcher = self._answering.searcher
        number = _number(searcher, video_id)
        seconds_F = searcher.gallery.videos.seconds[number].tolist()
        thumbnails = range(len(seconds_F)) if searcher.has_thumbnails(number) else ()
        playable = self._path_of(searcher, video_id) is not None
        day, table = file_day(int(searcher.attributes.mtime_ns_B[number])), searcher.attributes.table
        return reply(
            {
                **_listed(searcher, number),
                "date": None if day is None else day.isoformat(),
                "frames": len(seconds_F),
                "times": seconds_F,
                "playable": playable,
                "table": None if table is None else {column: cells[number] for column, cells in table.items()},
                "links": {
                    "file": flask.url_for("api_file", video_id=video_id) if playable else None,
                    "captions": flask.url_for("api_captions", video_id=video_id) if searcher.cache.places("texts") else None,
                    "thumbnails": [flask.url_for("api_thumbnail", video_id=video_id, frame=frame) for frame in thumbnails],
                },
            }
        )

    def file(self, video_id: str) -> flask.Response:
        """The file of a video, or the requested range of it."""
        searcher = self._answering.searcher
        return send_video(self._path_of(searcher, video_id))

    def captions(self, video_id: str) -> flask.Response:
        """The captions of the gallery that fit a video best."""
        searcher = self._answering.searcher
        _number(searcher, video_id)
        # A gallery without captions has none of this video.
        return _answered(lambda: captions_record(video_id, self._answering.captions(video_id), searcher), 404)

    def thumbnail(self, video_id: str, frame: int) -> flask.Response:
        """The thumbnail of a frame."""
        searcher = self._answering.searcher
        return send_thumbnail(searcher, _number(searcher, video_id), frame)

    def health(self) -> flask.Response:
        """Whether the server answers, and how busy it is."""
        return reply({"status": "ok", "videos": len(self._answering.searcher.gallery.ids), "waiting": self._answering.waiting})

    def openapi(self) -> flask.Response:
        """The description of all this."""
        return reply(description(self._answering.searcher.shown, VIDEOS_LISTED, flask.request.script_root or "/"))

    def _list_videos(self) -> dict[str, Any]:
        searcher = self._answering.searcher
        part = read_numbers(flask.request, {"top": VIDEOS_LISTED, "skip": 0})
        numbers = range(len(searcher.gallery.ids))[part["skip"] : part["skip"] + part["top"]]
        return {"gallery": len(searcher.gallery.ids), "results": [_listed(searcher, number) for number in numbers]}

    def _path_of(self, searcher: Searcher, video_id: str) -> Path | None:
        return VideoFiles(self._videos, searcher.files, searcher.cache).path_of(video_id)


def _answered(record: Callable[[], dict[str, Any]], status: int = 400) -> flask.Response:
    """The record as JSON; if it raises UserError, the error with this status, or 503."""
    try:
        return reply(record())
    except UserError as error:
        return refused(error, status)


def _number(searcher: Searcher, video_id: str) -> int:
    """The index of a video in the gallery; status 404 if it has none of this id."""
    if video_id not in searcher.files:
        flask.abort(404, "the gallery has no video of this id")
    return searcher.number(video_id)


def _listed(searcher: Searcher, number: int) -> dict[str, Any]:
    """A video in the list of all."""
    video_id = searcher.gallery.ids[number]
    return {
        "video_id": video_id,
        "file": searcher.files[video_id] or None,
        "length": float(searcher.attributes.length_B[number]),
        "link": flask.url_for("api_video", video_id=video_id),
    }
