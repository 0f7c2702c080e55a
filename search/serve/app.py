"""The search page: a Flask application around one searcher.

Any other page in the user's browser can send requests to a local server. So queries are never treated as markup, no request
changes anything, only files that the cache lists are served, and foreign host names are refused (DNS rebinding).
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

from data.base.errors import Unavailable, UserError
from data.base.quoting import path_text
from data.cache.features import TextFeatures
from data.datasets.files import files_named
from extract.plan.digest import file_digest
from search.pages.page import TEMPLATES, FrameView, environment, frame_views, shortened
from search.retrieval.moments import MEANING
from search.retrieval.queries import MAX_QUERY, clean_query
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
    """The application. `videos`: folder of the video files, None for a page without players; `host`: the host name of the server."""
    app = flask.Flask(__name__, static_folder=None, template_folder=None)
    pages = _Pages(searcher, videos, run)
    names = {"localhost", socket.gethostname().lower(), host.lower()}

    @app.before_request
    def refuse_foreign_names() -> None:
        if not _is_own(flask.request.host, names):
            flask.abort(400, "open this page at the address that the server printed; other host names are refused")

    @app.after_request
    def secure(response: flask.Response) -> flask.Response:
        response.headers.update(HEADERS)
        return response

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> flask.Response:
        # Keep the headers of the error: for a range that cannot be served, they give the size of the file.
        headers = [(name, value) for name, value in error.get_headers() if name not in ("Content-Type", "Content-Length")]
        return flask.Response(f"{error.code} {error.name}: {error.description}\n", error.code, headers, mimetype="text/plain")

    @app.errorhandler(UserError)
    def user_error(error: UserError) -> flask.Response:
        return flask.Response(f"{error}\n", 503, mimetype="text/plain")

    app.add_url_rule("/", "page", pages.page)
    app.add_url_rule("/results", "results", pages.results)
    app.add_url_rule("/thumbnail/<int:number>/<int:frame>", "thumbnail", pages.thumbnail)
    app.add_url_rule("/video/<int:number>", "video", pages.video)
    for name, kind in STATIC.items():
        app.add_url_rule(f"/{name}", name, partial(flask.send_file, TEMPLATES / name, mimetype=kind))
    return app


class _Pages:
    """The request handlers."""

    def __init__(self, searcher: Searcher, videos: Path | None, run: str) -> None:
        self._searcher, self._run = searcher, run
        self._videos = None if videos is None else videos.resolve()
        self._templates = environment()
        self._captions: TextFeatures | None = None
        self._one_at_a_time = Lock()
        """The searcher is not thread-safe, and one query keeps every core busy."""

    def page(self) -> flask.Response:
        """The whole page. It includes the answer to a query in the address, so that it works without scripts."""
        return self._answered("search_page.html")

    def results(self) -> flask.Response:
        """The answer alone, for the page's script."""
        return self._answered("search_answer.html")

    def thumbnail(self, number: int, frame: int) -> flask.Response:
        """The thumbnail of a frame."""
        images = self._searcher.thumbnails(number) if number < len(self._searcher.gallery.ids) else []
        if frame >= len(images) or not images[frame]:
            flask.abort(404)
        response = flask.Response(images[frame], mimetype="image/jpeg")
        response.cache_control.max_age = 3600
        return response

    def video(self, number: int) -> flask.Response:
        """A video file, or the requested range of it."""
        path = self._file(self._searcher.gallery.ids[number]) if number < len(self._searcher.gallery.ids) else None
        if path is None:
            flask.abort(404)
        # Flask would derive name and ETag from the path, which may contain bytes that are not text.
        found = path.stat()
        tag = f"{found.st_mtime_ns:x}-{found.st_size:x}"
        return flask.send_file(path, conditional=True, download_name=path_text(path.name), etag=tag)

    def _answered(self, template: str) -> flask.Response:
        """Render the template with the answer to q (a query) or v (the number of a video); status 400 or 413 for a bad query, 503 if a
        store does not answer."""
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
            values["error"], status = str(error), max(status, 503 if isinstance(error, Unavailable) else 400)
        content = self._templates.get_template(template).render(
            **values,
            title=_title(values),
            seconds=perf_counter() - start,
            frames=self._frames,
            video=self._video_url,
            of_captions=self._caption_link if self._searcher.cache.names("texts") else None,
            run=self._run,
            videos=len(self._searcher.gallery.ids),
            longest=MAX_QUERY,
        )
        return flask.Response(content, status, mimetype="text/html")

    def _frames(self, hit: Hit) -> list[FrameView]:
        kept = self._searcher.has_thumbnails(hit.number)

        def image(frame: int) -> str:
            return flask.url_for("thumbnail", number=hit.number, frame=frame) if kept else ""

        return list(frame_views(hit, image))

    def _caption_link(self, hit: Hit) -> str:
        return flask.url_for("page", v=hit.number)

    def _video_url(self, hit: Hit) -> str:
        return "" if self._file(hit.video_id) is None else flask.url_for("video", number=hit.number)

    def _file(self, video_id: str) -> Path | None:
        """The file that the cache lists for a video. It must be unchanged and inside the folder, links resolved; otherwise None."""
        name = self._searcher.files.get(video_id)
        if self._videos is None or name is None:
            return None
        for path in (one.resolve() for one in files_named(self._videos, name)):
            # Another source may have a file of the same name in another folder.
            if path.is_relative_to(self._videos) and os.path.isfile(path) and self._is_made_from(video_id, path):
                return path
        return None

    def _is_made_from(self, video_id: str, path: Path) -> bool:
        try:
            return self._searcher.cache.is_made_from(video_id, path, file_digest)
        except OSError:
            return False  # no permission to read the file


def _title(values: Mapping[str, Any]) -> str:
    """The title, which browser tabs and the history show."""
    asked = f"captions of {values['video_id']}" if values["captions"] else values["query"]
    return f"{shortened(asked)} - video search" if asked else "Video search"


def _is_own(host: str, names: set[str]) -> bool:
    """Whether a Host header names this machine, by one of its names or by an IP address, which DNS cannot redirect."""
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
