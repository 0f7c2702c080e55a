"""The search page: a Flask application around the answers of a searcher.

Queries are never treated as markup, no request changes anything, and only files that the cache lists are served. `search.serve.access` says
who may ask.
"""

from functools import partial
from pathlib import Path

import flask
from werkzeug.exceptions import HTTPException

from data.base.errors import UserError
from search.pages.page import TEMPLATES
from search.retrieval.files import VideoFiles
from search.serve.access import Access
from search.serve.answering import Answering
from search.serve.api import Api, refusal
from search.serve.connections import MAX_BODY
from search.serve.pages import Pages

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; media-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    # With no-referrer, browsers would not say which origin a form of this page comes from.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
RETRY_S = "5"
"""Seconds after which to ask again when the queue was full, or a store did not answer."""
STATIC = {"search.css": "text/css", "search.js": "text/javascript"}


OPEN = Access()


def make_app(answering: Answering, videos: Path | None, run: str, host: str, access: Access = OPEN) -> flask.Flask:
    """The application. `videos`: folder of the video files, None for a page without players; `host`: the host name of the server."""
    app = flask.Flask(__name__, static_folder=None, template_folder=None)
    searcher = answering.searcher
    pages = Pages(answering, VideoFiles(videos, searcher.files, searcher.cache), run)
    access.install(app, host, MAX_BODY)

    @app.after_request
    def secure(response: flask.Response) -> flask.Response:
        response.headers.update(HEADERS)
        if response.status_code == 503:
            response.headers.setdefault("Retry-After", RETRY_S)
        return response

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> flask.Response:
        # Keep the headers of the error: for a range that cannot be served, they give the size of the file.
        headers = [(name, value) for name, value in error.get_headers() if name not in ("Content-Type", "Content-Length")]
        return refusal(f"{error.code} {error.name}: {error.description}", error.code or 500, headers)

    @app.errorhandler(UserError)
    def user_error(error: UserError) -> flask.Response:
        return refusal(str(error), 503)

    app.add_url_rule("/", "page", pages.page)
    app.add_url_rule("/results", "results", pages.results)
    app.add_url_rule("/thumbnail/<int:number>/<int:frame>", "thumbnail", pages.thumbnail)
    app.add_url_rule("/video/<int:number>", "video", pages.video)
    Api(answering, videos).register(app)
    for name, kind in STATIC.items():
        app.add_url_rule(f"/{name}", name, partial(flask.send_file, TEMPLATES / name, mimetype=kind))
    return app
