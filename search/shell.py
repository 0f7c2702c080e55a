"""Answers queries from the command line or a file: `python -m search --cache DIR --run RUN "a query"`."""

import codecs
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from data.base.errors import UserError
from data.base.quoting import visible
from search.options import SearchOptions
from search.output.written import check_outputs, find_files, write_outputs

if TYPE_CHECKING:  # torch loads late, so that --help answers at once
    from search.answer import Answer, CaptionHit
    from search.query.query import Query
    from search.searcher import Searcher


FOLDED_NAMED = 3
"""Near-duplicates of a result that are named."""
FOR_QUERIES = (
    *("image", "like", "not_", "weight", "query_prefix", "query_template", "path", "min_length", "max_length", "since", "until", "table"),
    *("where", "threshold", "skip", "moments", "apart", "fold", "html", "csv", "m3u", "clips", "around"),
)
"""Options that --video, which ranks captions, has no use for."""
_LINE_END = re.compile(r"\r\n|\n|\r")
"""Line ends as editors write them. `str.splitlines` also splits at characters that occur within texts."""


def answer(options: SearchOptions) -> list["Answer"]:
    """Print the answers, write the files that are named, and return them. With --video, only print captions.

    Raises UserError if there is no query, if the video is unknown, or if the cache, run and CLIP do not fit each other.
    """
    queries = _queries(options)
    check_outputs(options)
    from search.searcher import Searcher
    from train_head.compiling import announce_compiling

    with announce_compiling(options.quiet):
        if options.video is not None:
            with Searcher(options, queries=False) as searcher:
                _print_captions(searcher, options.video, options)
            return []
        # Videos like another are found without CLIP.
        with Searcher(options, queries=any(query.text or query.without or query.picture for query in queries)) as searcher:
            return _search(searcher, queries, options)


def _queries(options: SearchOptions) -> list["Query"]:
    """All queries. They differ only in their words."""
    from search.query.parse import parse_query
    from search.query.pictures import read_picture
    from search.query.query import Shown

    texts = _texts(options)
    if options.video is not None:
        return []
    _check_used(options, bool(texts))
    values = {
        "like": options.like,
        "not": options.not_,
        "weight": options.weight,
        "min_length": options.min_length,
        "max_length": options.max_length,
        "since": options.since,
        "until": options.until,
        "skip": options.skip,
        "threshold": options.threshold,
        "moments": options.moments,
        "apart": options.apart,
        "fold": options.fold,
    }
    given = {field: [str(value)] for field, value in values.items() if value is not None}
    given |= {"path": list(options.path), "where": list(options.where)}
    shown, picture = Shown(top=options.top), None if options.image is None else read_picture(options.image, "--image")
    return [parse_query({**given, "q": [text]}, _option, picture, shown) for text in texts or [""]]


def _option(field: str) -> str:
    """What a field of a query is called on the command line."""
    return f"--{field.strip('_').replace('_', '-')}"


def _check_used(options: SearchOptions, words: bool) -> None:
    """Raise UserError for an option that changes nothing without another. `words`: whether any query has some."""
    if options.table is not None and not options.where:
        raise UserError(f"--table {options.table} is for --where: add a condition on a column, or leave it out")
    if options.apart != SearchOptions.apart and options.moments == 1:
        raise UserError(f"--apart {options.apart:g} is for --moments: ask for two or more, or leave it out")
    if (options.query_prefix or options.query_template) and not (words or options.not_):
        raise UserError("--query-prefix and --query-template are for words: add some, or leave them out")


def _texts(options: SearchOptions) -> list[str]:
    """The words of all queries, cleaned."""
    from search.retrieval.queries import clean_query

    given = list(options.query)
    if len(given) > 1 and not options.each:
        if any(len(part.split()) > 1 for part in given):
            print(f"{len(given)} arguments are joined into one query; to search for each of them, add --each", file=sys.stderr)
        given = [" ".join(part for part in given if part.strip())]
    queries = [clean_query(query) for query in given]
    if options.queries is not None:
        queries += _lines(options.queries, "--queries", options.quiet)
    other = options.image is not None or options.like is not None
    if options.video is not None:
        defaults = {one.name: one.default for one in fields(options)}
        given = ["the queries"] * bool(queries) + [_option(one) for one in FOR_QUERIES if getattr(options, one) != defaults[one]]
        if given:
            raise UserError(f"--video ranks captions: leave out {', '.join(given)}")
        if options.candidates_run is not None:
            raise UserError("--candidates-run finds videos for a query, and --video ranks captions: leave one of them out")
        return []
    if options.captions is not None:
        raise UserError(f"--captions {options.captions} is for --video: name a video too, or use --queries")
    if not queries and not other:
        raise UserError('there is no query: add one, such as "a cat on a chair", or name a file of queries with --queries')
    return queries


def _lines(name: str, option: str, quiet: bool) -> list[str]:
    """The cleaned texts of a file or of standard input, one per line; reports how many empty lines were skipped.

    Reads UTF-8, with or without a byte-order mark, and UTF-16 with one. Raises UserError, naming the line, for anything else.
    """
    from search.retrieval.queries import clean_query, clean_text

    try:
        if name == "-" and sys.stdin is None:
            raise UserError(f"{option} -: standard input is closed: name a file")
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise UserError(f"{option} {name} cannot be read: {error.strerror}") from error
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    found, empty = [], 0
    *lines, last = _LINE_END.split(_decoded(content, "utf-16" if utf_16 else "utf-8-sig", f"{option} {name}"))
    # The empty string after the final line end is not a line.
    for number, line in enumerate([*lines, *([last] if last else [])], start=1):
        if "\0" in line:
            raise UserError(f"{option} {name}, line {number}: a zero byte is not text: save the file as UTF-8")
        if not clean_text(line):
            empty += 1
            continue
        try:
            found.append(clean_query(line))
        except UserError as error:
            raise UserError(f"{option} {name}, line {number}: {error}") from error
    if not found:
        raise UserError(f"{option} {name} holds no text: write one text per line")
    if empty and not quiet:
        print(f"{option} {name}: {len(found):,} texts; empty lines skipped: {empty:,}", file=sys.stderr)
    return found


def _decoded(content: bytes, encoding: str, named: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = len(_LINE_END.findall(content[: error.start].decode(encoding, "replace"))) + 1
        raise UserError(
            f"{named}, line {line}: byte {content[error.start]:#04x} is not {encoding.removesuffix('-sig').upper()}: save it as UTF-8"
        ) from error


def _search(searcher: "Searcher", queries: Sequence["Query"], options: SearchOptions) -> list["Answer"]:
    from data.base.progress import Progress
    from search.output.record import answer_record
    from search.retrieval.moments import MEANING

    files = find_files(searcher, options)
    answers = []
    # On a terminal, the answers themselves show the progress.
    quiet = options.quiet or len(queries) == 1 or sys.stdout.isatty()
    with Progress("queries", len(queries), "queries", quiet) as progress:
        for answer in searcher.search(queries):
            answers.append(answer)
            progress.update()
            print(
                json.dumps(answer_record(answer, searcher)) if options.json else "\n".join(_as_text(answer, len(searcher.gallery.ids))),
                flush=True,
            )
    if not options.json:
        of_run = options.candidates_run
        found = "" if of_run is None else f", of which the {options.candidates:,} best of {of_run} are scored with {options.run}"
        print(f"{len(searcher.gallery.ids):,} videos{found}; each moment is the frame with the largest {MEANING[answers[0].measure]}")
    if files is not None:
        write_outputs(searcher, answers, files, options)
    return answers


def _as_text(answer: "Answer", videos: int) -> Iterator[str]:
    """The lines that print an answer. `videos`: in the gallery."""
    from search.query.filters import Filter
    from search.retrieval.moments import timestamp

    yield answer.query
    for note in answer.notes.lines():
        yield f"  note: {note}"
    shown = answer.asked.shown
    if not answer.hits:
        why = f"no score reaches --threshold {shown.threshold:g}" if not answer.found else f"--skip {shown.skip:,} leaves out all results"
        yield f"  no results: {why}"
    for hit in answer.hits:
        name = hit.video_id if hit.file in ("", hit.video_id) else f"{hit.video_id} ({hit.file})"
        yield f"{hit.rank:4} {hit.score:8.3f}  {timestamp(hit.moment.seconds)}  {visible(name)}"
        if hit.further:
            yield f"{'':13}  also at {', '.join(map(timestamp, hit.times[1:]))}"
        if hit.folded:
            named = [*map(visible, hit.folded[:FOLDED_NAMED]), *["…"] * (len(hit.folded) > FOLDED_NAMED)]
            yield f"{'':13}  and {len(hit.folded):,} like it: {', '.join(named)}"
    if shown.threshold is not None or answer.asked.filter != Filter():
        yield f"  found: {answer.found:,} of {videos:,} videos"


def _print_captions(searcher: "Searcher", video_id: str, options: SearchOptions) -> None:
    from search.output.record import captions_record

    number = searcher.number(video_id)
    if options.captions is None:
        texts = searcher.cached_captions()
    else:
        lines = dict.fromkeys(_lines(str(options.captions), "--captions", options.quiet))
        texts = searcher.encoder.encode_many(list(lines), options.quiet)
    hits: list[CaptionHit] = searcher.captions(number, texts)
    cut = searcher.cut_of_captions(texts.texts, cached=options.captions is None)
    if options.json:
        record = captions_record(searcher.gallery.ids[number], hits, searcher)
        print(json.dumps({**record, "captions": len(texts.texts), "captions_cut": cut}))
        return
    print(visible(video_id))
    for hit in hits:
        print(f"{hit.rank:4} {hit.score:8.3f}  {visible(hit.caption)}")
    print(f"of {len(texts.texts):,} captions{f', {cut:,} of which were cut' if cut else ''}")
