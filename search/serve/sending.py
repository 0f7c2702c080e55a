"""Sends what belongs to a video: its thumbnails and its file."""

from pathlib import Path

import flask
from werkzeug.http import parse_range_header
from werkzeug.wsgi import wrap_file

from data.base.quoting import path_text
from search.searcher import Searcher


def send_thumbnail(searcher: Searcher, number: int, frame: int) -> flask.Response:
    """The thumbnail of a frame of the video of this number; status 404 if there is none."""
    images = searcher.thumbnails(number)
    if frame >= len(images) or not images[frame]:
        flask.abort(404, "there is no such thumbnail")
    response = flask.Response(images[frame], mimetype="image/jpeg")
    response.cache_control.max_age = 3600
    return response


def send_video(path: Path | None) -> flask.Response:
    """A video file, or the requested range of it; status 404 for None.

    A range is handed to waitress as a file, as a whole file is, and not in pieces: a client that reads slowly would hold the thread that
    makes them.
    """
    if path is None:
        flask.abort(404, "the file of this video is not here")
    # Flask would derive name and ETag from the path, which may contain bytes that are not text.
    found = path.stat()
    tag = f"{found.st_mtime_ns:x}-{found.st_size:x}"
    response = flask.send_file(path, conditional=True, download_name=path_text(path.name), etag=tag)
    asked = parse_range_header(flask.request.headers.get("Range")) if response.status_code == 206 else None
    place = None if asked is None else asked.range_for_length(found.st_size)
    # Another server may not stop at the length of the answer.
    if place is not None and flask.request.method == "GET" and "wsgi.file_wrapper" in flask.request.environ:
        response.close()
        file = path.open("rb")
        file.seek(place[0])
        response.response = wrap_file(flask.request.environ, file)
    return response
