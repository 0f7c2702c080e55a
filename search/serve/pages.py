"""The handlers of the page: HTML, thumbnails and video files."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import flask

from data.base.errors import Unavailable, UserError
from search.pages.page import clock, environment, shortened
from search.query.filters import Filter, kept
from search.query.parse import parse_query
from search.query.pictures import MAX_BYTES
from search.query.query import Like
from search.retrieval.files import VideoFiles
from search.retrieval.moments import MEANING
from search.retrieval.queries import MAX_QUERY
from search.searcher import Searcher
from search.serve.answering import Answering
from search.serve.form import LABELS, Chip, Form, TooLong, label, read_form, read_upload
from search.serve.links import Links
from search.serve.sending import send_thumbnail, send_video
from search.watch.status import Status

MOMENTS = 3
"""Moments shown of a video unless the query says otherwise."""
NEAR = 0.98
"""Cosine from which near-duplicates are folded, where somebody wants that."""
EXAMPLES = 3
"""Captions that a page without a query suggests."""


class Pages:
    """The handlers. Each takes the searcher once, so that a request sees one gallery though another may take its place."""

    def __init__(self, answering: Answering, videos: Path | None, run: str) -> None:
        """`videos`: folder of the video files, None for a page without players. `run`: what scores, for people."""
        self._answering, self._videos, self._run = answering, videos, run
        self._templates = environment()

    def page(self) -> flask.Response:
        """The whole page. It includes the answer to the query in the address or in the form, so that it works without scripts."""
        return self._answered("search_page.html")

    def results(self) -> flask.Response:
        """The answer alone, for the page's script."""
        return self._answered("search_answer.html")

    def show_watched(self, status: Callable[[], Status]) -> None:
        """Let the page show what --watch does."""
        self._templates.globals["watched"] = status

    def watch(self) -> flask.Response:
        """What --watch does, alone, for the page's script."""
        # The number first: a gallery that comes in between is then told of by the next request.
        replaced, total = self._answering.replaced, len(self._answering.searcher.gallery.ids)
        content = self._templates.get_template("search_watch.html").render(replaced=replaced, total=total)
        return flask.Response(content, mimetype="text/html")

    def thumbnail(self, video_id: str, frame: int) -> flask.Response:
        """The thumbnail of a frame. Its present version stays as it is for ever; without one, the browser asks again every time."""
        searcher = self._answering.searcher
        if video_id not in searcher.files:
            flask.abort(404)
        return send_thumbnail(searcher, searcher.number(video_id), frame)

    def video(self, video_id: str) -> flask.Response:
        """A video file, or the requested range of it."""
        return send_video(self._files(self._answering.searcher).path_of(video_id))

    def _files(self, searcher: Searcher) -> VideoFiles:
        return VideoFiles(self._videos, searcher.files, searcher.cache)

    def _answered(self, template: str) -> flask.Response:
        """Render the template with the answer to what was asked; status 400 or 413 for a bad query, 503 if a store does not answer."""
        start, replaced, searcher = perf_counter(), self._answering.replaced, self._answering.searcher
        form = Form({}, asked=False)
        found: dict[str, Any] = dict.fromkeys(("query", "answer", "passing", "captions", "like", "error"))
        status = 200
        try:
            form = read_form(flask.request)
            form.require_short()
            more, searcher = self._found(form, searcher)
            found |= more
        except UserError as error:
            found["error"] = str(error)
            status = 503 if isinstance(error, Unavailable) else 413 if isinstance(error, TooLong) else 400
            # What is too long is not sent back.
            form = Form({}, asked=True) if status == 413 else form
        content = self._templates.get_template(template).render(
            **found,
            title=_title(form, found),
            form=form,
            links=Links(searcher, self._files(searcher), form.fields),
            labels=LABELS,
            columns=list(searcher.attributes.table or ()),
            near=NEAR,
            status=status,
            seconds=perf_counter() - start,
            run=self._run,
            total=len(searcher.gallery.ids),
            replaced=replaced,
            examples=lambda: _spread(searcher.cache.names("texts"), EXAMPLES),
            longest=MAX_QUERY,
            heaviest=MAX_BYTES,
            scripted=template == "search_answer.html",
        )
        return flask.Response(content, status, mimetype="text/html")

    def _found(self, form: Form, searcher: Searcher) -> tuple[dict[str, Any], Searcher]:
        """What the template shows of an answer, and the searcher that gave it. Raises UserError."""
        if form.asked:
            query = parse_query(form.fields, label, read_upload(flask.request), replace(searcher.shown, moments=MOMENTS))
            try:
                answer, searcher = self._answering.answer(query)
            except Unavailable:
                raise
            except UserError:
                if kept(query.filter, searcher.attributes).any():
                    raise
                return {"query": query, "like": _like(query.like, searcher), "passing": _passing(form, searcher)}, searcher
            found = {"query": query, "like": _like(query.like, searcher), "answer": answer, "passing": {}}
            return found | {"meaning": MEANING[answer.measure]}, searcher
        if form.captions:
            if form.captions not in searcher.files:
                flask.abort(404)
            return {"captions": self._answering.captions(form.captions)}, searcher
        return {}, searcher


def _passing(form: Form, searcher: Searcher) -> dict[Chip, int]:
    """How many videos each filter lets through, alone."""
    alone = {chip: parse_query({"q": ["-"], chip.field: [chip.value]}, label).filter for chip in form.chips}
    return {chip: int(kept(one, searcher.attributes).sum()) for chip, one in alone.items() if one != Filter()}


def _like(like: Like | None, searcher: Searcher) -> dict[str, Any] | None:
    """The moment whose likes are shown: its video, when it is, and the frame nearest to it."""
    if like is None or like.video_id not in searcher.files:
        return None
    times_F = searcher.gallery.videos.seconds[searcher.number(like.video_id)]
    frame = len(times_F) // 2 if like.seconds is None else int(abs(times_F - like.seconds).argmin())
    return {"video_id": like.video_id, "at": "" if like.seconds is None else clock(like.seconds), "frame": frame}


def _spread(texts: Sequence[str], count: int) -> list[str]:
    """So many of the texts, evenly spaced."""
    return [*texts[:: max(1, len(texts) // count)]][:count]


def _title(form: Form, found: dict[str, Any]) -> str:
    """The title, which browser tabs and the history show."""
    asked = f"captions of {form.captions}" if found["captions"] else str(found["query"] or form.value("q"))
    return f"{shortened(asked)} - video search" if asked else "Video search"
