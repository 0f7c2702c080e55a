"""The handlers of the page: HTML, thumbnails and video files."""

from collections.abc import Mapping
from time import perf_counter
from typing import Any

import flask

from data.base.errors import Unavailable, UserError
from search.answer import Hit
from search.pages.page import FrameView, environment, frame_views, shortened
from search.query.parse import FIELDS, parse_query
from search.retrieval.files import VideoFiles
from search.retrieval.moments import MEANING
from search.retrieval.queries import MAX_QUERY
from search.serve.answering import Answering
from search.serve.sending import send_thumbnail, send_video


class Pages:
    """The handlers."""

    def __init__(self, answering: Answering, files: VideoFiles, run: str) -> None:
        self._answering, self._files, self._run = answering, files, run
        self._templates = environment()

    def page(self) -> flask.Response:
        """The whole page. It includes the answer to a query in the address, so that it works without scripts."""
        return self._answered("search_page.html")

    def results(self) -> flask.Response:
        """The answer alone, for the page's script."""
        return self._answered("search_answer.html")

    def thumbnail(self, number: int, frame: int) -> flask.Response:
        """The thumbnail of a frame."""
        searcher = self._answering.searcher
        if number >= len(searcher.gallery.ids):
            flask.abort(404)
        return send_thumbnail(searcher, number, frame)

    def video(self, number: int) -> flask.Response:
        """A video file, or the requested range of it."""
        ids = self._answering.searcher.gallery.ids
        return send_video(self._files.path_of(ids[number]) if number < len(ids) else None)

    def _answered(self, template: str) -> flask.Response:
        """Render the template with the answer to the query in the address, or the captions of v (the number of a video); status 400 or 413
        for a bad query, 503 if a store does not answer."""
        given = {field: flask.request.args.getlist(field) for field in FIELDS if field in flask.request.args}
        number = flask.request.args.get("v", type=int)
        searcher = self._answering.searcher
        asked = " ".join(given.get("q", [""])[-1:])
        values: dict[str, Any] = {"query": asked, "error": None, "answer": None, "captions": None}
        status, start = 200, perf_counter()
        try:
            if given:
                if len(asked) > MAX_QUERY:
                    status = 413
                    values["query"] = ""
                query = parse_query(given, str, shown=searcher.shown)
                values["query"] = query.text
                values["answer"] = self._answering.answer(query)
                values["meaning"] = MEANING[values["answer"].measure]
            elif number is not None:
                if not 0 <= number < len(searcher.gallery.ids):
                    flask.abort(404)
                values["video_id"] = searcher.gallery.ids[number]
                values["captions"] = self._answering.captions(number)
        except UserError as error:
            values["error"], status = str(error), max(status, 503 if isinstance(error, Unavailable) else 400)
        content = self._templates.get_template(template).render(
            **values,
            title=_title(values),
            seconds=perf_counter() - start,
            frames=self._frames,
            video=self._video_url,
            of_captions=self._caption_link if searcher.cache.names("texts") else None,
            run=self._run,
            videos=len(searcher.gallery.ids),
            longest=MAX_QUERY,
        )
        return flask.Response(content, status, mimetype="text/html")

    def _frames(self, hit: Hit) -> list[FrameView]:
        kept = self._answering.searcher.has_thumbnails(hit.number)

        def image(frame: int) -> str:
            return flask.url_for("thumbnail", number=hit.number, frame=frame) if kept else ""

        return list(frame_views(hit, image))

    def _caption_link(self, hit: Hit) -> str:
        return flask.url_for("page", v=hit.number)

    def _video_url(self, hit: Hit) -> str:
        return "" if self._files.path_of(hit.video_id) is None else flask.url_for("video", number=hit.number)


def _title(values: Mapping[str, Any]) -> str:
    """The title, which browser tabs and the history show."""
    asked = f"captions of {values['video_id']}" if values["captions"] else values["query"]
    return f"{shortened(asked)} - video search" if asked else "Video search"
