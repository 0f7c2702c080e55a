"""The served page: a Flask application over one searcher.

A page of this machine is open to every other page in the user's browser, so: queries are text and stay text, nothing is changed by a
request, files are those that the cache lists and no others, and requests by foreign names (DNS rebinding) are refused.
"""

import ipaddress
import os
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import flask
from werkzeug.exceptions import HTTPException

from data.base.errors import UserError
from data.base.quoting import path_text
from data.cache.features import TextFeatures
from data.datasets.files import files_named
from extract.plan.digest import file_digest
from search.moments import MEANING
from search.pages.page import TEMPLATES, FrameShown, environment, frames_shown, shortened
from search.queries import MAX_QUERY, clean_query
from search.searcher import Hit, Searcher

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; media-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
STATIC = {"search.css": "text/css", "search.js": "text/javascript"}


def make_app(searcher: Searcher, videos: Path | None, run: str, host: str) -> flask.Flask:
    """The application; `videos` is the folder of the video files, None for a page without players, `host` the name it is reached by."""
    app = flask.Flask(__name__, static_folder=None, template_folder=None)
    pages = _Pages(searcher, videos, run)
    names = {"localhost", socket.gethostname().lower(), host.lower()}

    @app.before_request
    def refuse_foreign_names() -> None:
        if not _is_own(flask.request.host, names):
            flask.abort(400, "this page is reached by the address that the server printed, and by no other name")

    @app.after_request
    def secure(response: flask.Response) -> flask.Response:
        response.headers.update(HEADERS)
        return response

    @app.errorhandler(HTTPException)
    def plain(error: HTTPException) -> flask.Response:
        # With the headers of the error: a range that a file does not have is answered with its size.
        headers = [(name, value) for name, value in error.get_headers() if name not in ("Content-Type", "Content-Length")]
        return flask.Response(f"{error.code} {error.name}: {error.description}\n", error.code, headers, mimetype="text/plain")

    @app.errorhandler(UserError)
    def said(error: UserError) -> flask.Response:
        return flask.Response(f"{error}\n", 503, mimetype="text/plain")

    app.add_url_rule("/", "page", pages.page)
    app.add_url_rule("/results", "results", pages.results)
    app.add_url_rule("/thumbnail/<int:number>/<int:frame>", "thumbnail", pages.thumbnail)
    app.add_url_rule("/video/<int:number>", "video", pages.video)
    for name, kind in STATIC.items():
        app.add_url_rule(f"/{name}", name, partial(flask.send_file, TEMPLATES / name, mimetype=kind))
    return app


class _Pages:
    """What each address answers."""

    def __init__(self, searcher: Searcher, videos: Path | None, run: str) -> None:
        self._searcher, self._run = searcher, run
        self._videos = None if videos is None else videos.resolve()
        self._templates = environment()
        self._captions: TextFeatures | None = None
        self._one_at_a_time = Lock()
        """Scoring takes every core, and its memory belongs to one query."""

    def page(self) -> flask.Response:
        """The whole page: with the answer where something is asked, so that it works without scripts."""
        return self._answered("search_page.html")

    def results(self) -> flask.Response:
        """The answer alone, for the page's script."""
        return self._answered("search_answer.html")

    def thumbnail(self, number: int, frame: int) -> flask.Response:
        """The picture of a frame."""
        images = self._searcher.thumbnails(number) if number < len(self._searcher.gallery.ids) else []
        if frame >= len(images) or not images[frame]:
            flask.abort(404)
        response = flask.Response(images[frame], mimetype="image/jpeg")
        response.cache_control.max_age = 3600
        return response

    def video(self, number: int) -> flask.Response:
        """A video file, or the range of it that is asked for."""
        path = self._file(self._searcher.gallery.ids[number]) if number < len(self._searcher.gallery.ids) else None
        if path is None:
            flask.abort(404)
        # Flask would make name and tag of the path, which may have bytes that are no text.
        found = path.stat()
        tag = f"{found.st_mtime_ns:x}-{found.st_size:x}"
        return flask.send_file(path, conditional=True, download_name=path_text(path.name), etag=tag)

    def _answered(self, template: str) -> flask.Response:
        """The template with the answer to q (a query) or v (the number of a video), and 400 or 413 where there is no answer to it."""
        asked, number = flask.request.args.get("q"), flask.request.args.get("v", type=int)
        values: dict[str, Any] = {"query": "", "error": None, "answer": None, "captions": None}
        status, start = 200, perf_counter()
        try:
            if asked is not None:
                if len(asked) > MAX_QUERY:
                    status = 413
                values["query"] = clean_query(asked)
                with self._one_at_a_time:
                    values["answer"] = next(self._searcher.search([values["query"]]))
                values["meaning"] = MEANING[values["answer"].measure]
            elif number is not None:
                if not 0 <= number < len(self._searcher.gallery.ids):
                    flask.abort(404)
                values["video_id"] = self._searcher.gallery.ids[number]
                with self._one_at_a_time:
                    if self._captions is None:
                        self._captions = self._searcher.cached_captions()
                    values["captions"] = self._searcher.captions(number, self._captions)
        except UserError as error:
            values["error"], status = str(error), max(status, 400)
        content = self._templates.get_template(template).render(
            **values,
            title=_title(values),
            seconds=perf_counter() - start,
            frames=self._frames,
            video=self._address,
            of_captions=self._caption_link if self._searcher.cache.names("texts") else None,
            run=self._run,
            videos=len(self._searcher.gallery.ids),
            longest=MAX_QUERY,
        )
        return flask.Response(content, status, mimetype="text/html")

    def _frames(self, hit: Hit) -> list[FrameShown]:
        kept = self._searcher.has_thumbnails(hit.number)

        def image(frame: int) -> str:
            return flask.url_for("thumbnail", number=hit.number, frame=frame) if kept else ""

        return list(frames_shown(hit, image))

    def _caption_link(self, hit: Hit) -> str:
        return flask.url_for("page", v=hit.number)

    def _address(self, hit: Hit) -> str:
        return "" if self._file(hit.video_id) is None else flask.url_for("video", number=hit.number)

    def _file(self, video_id: str) -> Path | None:
        """The file that the cache lists for a video, if it is there unchanged, in the folder and not behind a link that leads out of it."""
        name = self._searcher.files.get(video_id)
        if self._videos is None or name is None:
            return None
        for path in (one.resolve() for one in files_named(self._videos, name)):
            # Another source of the cache may have a file of the same name in another folder.
            if path.is_relative_to(self._videos) and os.path.isfile(path) and self._is_made_from(video_id, path):
                return path
        return None

    def _is_made_from(self, video_id: str, path: Path) -> bool:
        try:
            return self._searcher.cache.is_made_from(video_id, path, file_digest)
        except OSError:
            return False  # a file that may not be read


def _title(values: Mapping[str, Any]) -> str:
    """What a tab of a browser and its history call the page."""
    asked = f"captions of {values['video_id']}" if values["captions"] else values["query"]
    return f"{shortened(asked)} - video search" if asked else "Video search"


def _is_own(host: str, names: set[str]) -> bool:
    """Whether a Host header names this machine: by an address, which nobody can point elsewhere, or by one of its names."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
