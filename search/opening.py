"""Checks the options of a search, and opens what candidates are found with."""

from collections.abc import Callable

from data.base.errors import UserError
from data.cache import FeatureCache
from search.index.candidates import candidate_index, check_candidates, index_for, require_index
from search.index.engine import Engine
from search.index.milvus.opening import Found, find_collection, open_collection
from search.index.options import check_engine
from search.index.words import ContentWords
from search.options import RetrievalOptions
from search.query.table import require_table
from search.retrieval.first_stage import check_first_stage
from search.retrieval.gallery import Gallery
from search.retrieval.shortlist import IndexedGallery, Shortlist, WholeGallery


def check_options(options: RetrievalOptions) -> None:
    """Raise UserError for options that cannot be right or do not go together, before anything is read."""
    if options.top < 1:
        raise UserError(f"--top {options.top} must be at least 1")
    if options.max_frames is not None and options.max_frames < 1:
        raise UserError(f"--max-frames {options.max_frames} must be at least 1")
    if options.table is not None:
        require_table(options.table)
    _check_engine(options)
    check_first_stage(options.candidates_run, options.candidates, options.index, options.candidates_from)
    if options.candidates is not None:
        require_index(options.index, [options.candidates_from])


def _check_engine(options: RetrievalOptions) -> None:
    """Raise UserError for an engine that does not go with the other options."""
    check_engine(options)
    if options.engine == "faiss":
        if options.search_params is not None:
            raise UserError("--search-params is for --engine milvus: add it, or leave this option out")
        return
    if options.candidates_run is not None:
        raise UserError("--engine milvus finds candidates in a collection, --candidates-run with a run: leave one of them out")
    if options.candidates is None:
        raise UserError("--engine milvus finds candidates: say how many, such as --candidates 100")


def check_candidates_of(options: RetrievalOptions, videos: int) -> None:
    """Raise UserError for a number of candidates that this many videos, or the other options, rule out. An empty gallery has an error of
    its own."""
    if options.candidates is None:
        if options.index is not None:
            raise UserError(f"--index {options.index} is for --candidates: add a number of candidates, such as --candidates 100")
        return
    if videos:
        check_candidates(options.candidates, videos)
    if options.candidates < options.top:
        raise UserError(f"--candidates {options.candidates} must be at least --top {options.top}")


def find_vectors(options: RetrievalOptions, cache: FeatureCache, max_frames: int | None) -> Found | None:
    """The collection of --engine milvus. Raises UserError if it cannot be searched."""
    if options.engine != "milvus":
        return None
    return find_collection(options, options.search_params, cache, index_for(options.candidates_from), max_frames)


def open_shortlist(
    options: RetrievalOptions, cache: FeatureCache, gallery: Gallery, collection: Found | None, words: Callable[[], ContentWords]
) -> Shortlist:
    """The videos that are scored first: all of them, or with --candidates and without --candidates-run the ones that an engine finds."""
    if options.candidates is None or options.candidates_run is not None:
        return WholeGallery(len(gallery.ids))
    vectors = index_for(options.candidates_from)
    engine: Engine
    if collection is not None:
        engine = open_collection(collection, cache, gallery.videos, vectors, options.quiet)
    else:
        folder = None if options.index is None else options.index / vectors
        engine = candidate_index(cache, gallery.videos, vectors, folder, quiet=options.quiet)
    return IndexedGallery(engine, options.candidates, words if options.candidates_from == "words" else None)
