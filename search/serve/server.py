"""The server below the page: it loads everything, listens, and serves until it is interrupted."""

import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any

from data.base.errors import UserError
from data.store.address import address_of as store_at
from search.serve.options import ServeOptions

if TYPE_CHECKING:  # numpy, pandas and torch load late, so that --help answers at once
    from search.searcher import Searcher
    from search.serve.answering import Answering
    from search.watch.watcher import Watcher

MOST_QUEUED = 256
"""Each request that waits holds a thread and a connection."""
SPARE_THREADS = 8
"""Threads beside those that wait for an answer: for thumbnails, and to refuse what finds the queue full. More than the number of
connections that a browser opens to one server."""


def main(options: ServeOptions) -> None:
    """Load everything, print the address, and serve until interrupted.

    Raises UserError if the port is taken, or if the cache, the run or the videos do not exist or do not fit.
    """
    with _listen(options) as listening, watched_answering(options) as (answers, watcher):
        server = make_server(answers, options, listening, watcher)
        print(f"searching {store_at(options.cache) or options.cache} at {address_of(listening)} (Ctrl-C to stop)", flush=True)
        server.run()
    # waitress swallows the interrupt and returns.
    raise KeyboardInterrupt("the server has stopped; run the same command to start it again")


@contextmanager
def serving(options: ServeOptions) -> Iterator[str]:
    """Serve the page from a thread of this process and yield its address. For tests and tools that drive a browser."""
    with _listen(options) as listening, watched_answering(options) as (answers, watcher):
        server = make_server(answers, options, listening, watcher)
        thread = Thread(target=server.run, daemon=True)
        thread.start()
        try:
            yield address_of(listening)
        finally:
            stop(server, thread)


@contextmanager
def answering(options: ServeOptions) -> Iterator["Answering"]:
    """A queue in front of a searcher that has loaded everything."""
    from search.searcher import QUERIES_AT_ONCE
    from search.serve.answering import Answering

    if not 1 <= options.queries_at_once <= QUERIES_AT_ONCE:
        raise UserError(f"--queries-at-once {options.queries_at_once} must be a number from 1 to {QUERIES_AT_ONCE}")
    with Answering(load(options), options.queue, options.queries_at_once) as made:
        made.prepare()
        yield made


@contextmanager
def watched_answering(options: ServeOptions) -> Iterator[tuple["Answering", "Watcher | None"]]:
    """`answering`, and with --watch the watcher that keeps it up to date. Raises UserError, before anything is loaded, if nothing can be
    watched."""
    if not options.watch:
        with answering(options) as answers:
            yield answers, None
        return
    from search.watch.folders import find_folders
    from search.watch.watcher import Watcher

    folders = find_folders(options)
    with answering(options) as answers, Watcher(options, answers, folders) as watcher:
        yield answers, watcher


def load(options: ServeOptions) -> "Searcher":
    """A searcher that has loaded everything: see `Searcher.warm_up`."""
    from search.searcher import Searcher
    from train_head.compiling import announce_compiling

    with announce_compiling(options.quiet):
        searcher = Searcher(options)
        searcher.warm_up()
    return searcher


def stop(server: Any, thread: Thread) -> None:
    """End a server that runs in this thread."""

    def close_channels() -> None:
        for channel in [*server._map.values()]:
            if channel not in (server, server.trigger):
                channel.close()
        # With nothing left to wait for, the loop ends.
        server._map.clear()

    server.trigger.pull_trigger(close_channels)
    thread.join()
    server.task_dispatcher.shutdown()
    # Last, because this closes the trigger, by which threads that answer wake the loop too: one of them may have done so before this one.
    server.close()


def make_server(answers: "Answering", options: ServeOptions, listening: socket.socket, watcher: "Watcher | None" = None) -> Any:
    """A server of the page around these answers, which shows what the watcher does."""
    from search.retrieval.files import video_folder
    from search.serve.access import Access
    from search.serve.app import make_app
    from search.serve.connections import make_waitress
    from search.serve.login import find_token

    # A thumbnail that waits for another is not worth a line in the terminal.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    searcher = answers.searcher
    taken, kept = searcher.head.most_words, searcher.cache.settings["max_words"]
    if taken is not None and taken < kept:
        print(f"the head of {options.run} cuts queries to {taken} tokens; the cache keeps {kept}", file=sys.stderr)
    folder = video_folder(options.videos, options.cache, searcher.cache.extraction, "the page has no players")
    access = Access(find_token(options.token), options.rate, options.public_host)
    app = make_app(answers, folder, searcher.scored_by, options.host, access, watcher)
    return make_waitress(app, listening, options.queue + options.queries_at_once + SPARE_THREADS, options.trusted_proxy)


def address_of(listening: socket.socket) -> str:
    """The URL of the page for a browser on this machine."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _check(options: ServeOptions) -> None:
    """Raise UserError for options that cannot be right, before anything is loaded."""
    from search.serve.access import check_access

    check_access(options)
    if not 1 <= options.queue <= MOST_QUEUED:
        raise UserError(f"--queue {options.queue} must be a number from 1 to {MOST_QUEUED:,}")


def _listen(options: ServeOptions) -> socket.socket:
    _check(options)
    if not 0 <= options.port < 2**16:
        raise UserError(f"--port {options.port} must be a number from 0 to {2**16 - 1}")
    try:
        family = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((options.host, options.port), family=family)
    except (OSError, UnicodeError) as error:
        # Python appends the address in parentheses; the message names it already.
        reason = str(error.strerror).partition(" (")[0] if isinstance(error, OSError) else str(error)
        raise UserError(
            f"cannot listen on --host {options.host} --port {options.port} ({reason}): choose another, such as --port 0"
        ) from error
