"""Free text over a cache, from the shell: `python -m evaluate.search --cache DIR --run RUN "a query"`."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from data.command import run_command
from data.errors import UserError
from data.writable import require_writable_file
from evaluate.retrieval.options import RetrievalOptions

if TYPE_CHECKING:  # torch loads late, so that --help answers at once
    from evaluate.retrieval.searcher import Answer, CaptionHit, Searcher


@dataclass(frozen=True)
class SearchOptions(RetrievalOptions):
    """Find videos, and the moment in each, for queries in words; or, with --video, captions for a video."""

    query: tyro.conf.Positional[tuple[str, ...]] = ()
    """What to look for, in words; several queries are answered one after the other."""
    queries: str | None = None
    """File of more queries, one a line; - is standard input."""
    video: str | None = None
    """Id of a video to rank captions for, instead of queries."""
    captions: Path | None = None
    """File of texts for --video, one a line. Default: all captions of the cache."""
    html: Path | None = None
    """File for the results as a page with thumbnails, where the cache keeps them."""
    json: bool = False
    """The results as JSON on standard output, a line for each query."""


def main(options: SearchOptions) -> list["Answer"]:
    """Print what was found, write it to HTML where a file is named, and return it (nothing for --video, which is printed alone).

    Raises UserError where nothing is asked for, the video is unknown, or the cache, run or CLIP do not fit.
    """
    queries = _queries(options)
    if options.html is not None:
        require_writable_file(options.html, "--html")
    from evaluate.retrieval.searcher import Searcher

    if options.video is not None:
        _print_captions(Searcher(options, queries=False), options.video, options)
        return []
    return _search(Searcher(options), queries, options)


def _queries(options: SearchOptions) -> list[str]:
    """All queries, as they are shown and encoded."""
    from evaluate.retrieval.queries import clean_query

    given = list(options.query)
    if options.queries is not None:
        given += _lines(options.queries, "--queries")
    if options.video is not None:
        if given or options.html:
            raise UserError("--video asks for captions: leave out the queries and --html")
        return []
    if options.captions is not None:
        raise UserError(f"--captions {options.captions} belongs to --video: name one")
    if not given:
        raise UserError('there is no query: write one, such as "a cat on a chair", or name a file of queries with --queries')
    return [clean_query(query) for query in given]


def _lines(name: str, option: str) -> list[str]:
    """The lines of a file, or of standard input, that are not blank."""
    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise UserError(f"{option} {name} cannot be read: {error.strerror}") from error
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{option} {name}, line {line}: byte {content[error.start]:#04x} is not UTF-8: save it as UTF-8") from error
    found = [line for line in lines if line.strip()]
    if not found:
        raise UserError(f"{option} {name} holds no text: write one text a line")
    return found


def _search(searcher: "Searcher", queries: Sequence[str], options: SearchOptions) -> list["Answer"]:
    from data.progress import Progress
    from evaluate.retrieval.moments import MEANING
    from evaluate.retrieval.page import write_page

    answers = []
    with Progress("queries", len(queries), "queries", options.quiet or len(queries) == 1) as progress:
        for answer in searcher.search(queries):
            answers.append(answer)
            progress.update()
            print(json.dumps(_plain(answer, searcher, options)) if options.json else "\n".join(_text(answer)), flush=True)
    if not options.json:
        print(f"{len(searcher.gallery.ids):,} videos; the moment is that of the frame with the largest {MEANING[answers[0].measure]}")
    if options.html is not None:
        write_page(options.html, searcher, answers, options.run)
        print(f"the same with thumbnails: {options.html}", file=sys.stderr)
    return answers


def _text(answer: "Answer") -> Iterator[str]:
    """An answer for people."""
    from evaluate.retrieval.moments import clock

    yield answer.query
    for note in answer.notes.lines():
        yield f"  note: {note}"
    for hit in answer.hits:
        name = hit.video_id if hit.file in ("", hit.video_id) else f"{hit.video_id} ({hit.file})"
        yield f"{hit.rank:4} {hit.score:8.3f}  {clock(hit.moment.seconds)}  {printable(name)}"


def _plain(answer: "Answer", searcher: "Searcher", options: SearchOptions) -> dict[str, Any]:
    """An answer for programs."""
    from evaluate.retrieval.moments import clock

    return {
        "query": answer.query,
        "run": options.run,
        "gallery": len(searcher.gallery.ids),
        **answer.notes.plain(),
        "results": [
            {
                "rank": hit.rank,
                "video_id": hit.video_id,
                "file": hit.file or None,
                "score": hit.score,
                "moment": {
                    "seconds": hit.moment.seconds,
                    "clock": clock(hit.moment.seconds),
                    "by": answer.measure,
                    "weight": hit.moment.weight_F[hit.moment.frame],
                },
            }
            for hit in answer.hits
        ],
    }


def _print_captions(searcher: "Searcher", video_id: str, options: SearchOptions) -> None:
    number = searcher.number(video_id)
    if options.captions is None:
        texts = searcher.cached_captions()
    else:
        from evaluate.retrieval.queries import clean_query

        lines = dict.fromkeys(clean_query(line) for line in _lines(str(options.captions), "--captions"))
        texts = searcher.encoder.encode_many(list(lines), options.quiet)
    hits: list[CaptionHit] = searcher.captions(number, texts)
    cut = searcher.cut_of_captions(texts.texts, cached=options.captions is None)
    if options.json:
        results = [{"rank": hit.rank, "caption": hit.caption, "score": hit.score} for hit in hits]
        said = {"video_id": video_id, "run": options.run, "captions": len(texts.texts), "captions_cut": cut, "results": results}
        print(json.dumps(said))
        return
    print(printable(video_id))
    for hit in hits:
        print(f"{hit.rank:4} {hit.score:8.3f}  {printable(hit.caption)}")
    print(f"of {len(texts.texts):,} captions{f', {cut:,} of which were cut' if cut else ''}")


def printable(text: str) -> str:
    """A name as a terminal can show it: what would steer it is escaped."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


if __name__ == "__main__":
    run_command(SearchOptions, main, prog="python -m evaluate.search")
