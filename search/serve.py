"""Search as a page on this machine: `python -m search.serve --cache DIR --run RUN`."""

import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any

from data.base.errors import UserError
from data.cli.command import run_command
from data.cli.command_line import About
from search.options import RetrievalOptions

if TYPE_CHECKING:  # numpy and pandas load late, so that --help answers at once
    from data.cache.extraction import Extraction

MAX_HEADER = 2**22
"""Bytes of a request's address and headers, more than a browser sends: a query that is too long is then answered by the page. Whoever sends
more yet is cut off."""
MAX_BODY = 2**16
"""Bytes of a request's body, which nothing reads."""
REQUESTS_AT_ONCE = 8
"""More than the connections that a browser opens to one server."""


@dataclass(frozen=True)
class ServeOptions(RetrievalOptions):
    """Open a page with a query box, thumbnails and players, for this machine alone unless --host says more."""

    videos: Annotated[Path | None, About.INPUT] = None
    """Folder of the video files, for the players. Default: the one they were extracted from, where it is still there."""
    host: Annotated[str, About.OUTPUT] = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets every machine of the network search and watch."""
    port: Annotated[int, About.OUTPUT] = 8000
    """Port to listen on; 0 takes a free one."""


def main(options: ServeOptions) -> None:
    """Load everything, print the address, and answer until interrupted. Raises UserError where the port is taken or what is named is not
    there or does not fit."""
    with _listen(options) as listening:
        server = make_server(options, listening)
        print(f"searching {options.cache} at {address_of(listening)} (Ctrl-C ends it)", flush=True)
        server.run()
    # waitress takes an interrupt for the end of its work.
    raise KeyboardInterrupt("the page is closed; run the same command again to open it")


@contextmanager
def serving(options: ServeOptions) -> Iterator[str]:
    """The page in a thread of this process, at the address given, for what drives a browser."""
    from waitress import wasyncore

    with _listen(options) as listening:
        server = make_server(options, listening)
        thread = Thread(target=server.run, daemon=True)
        thread.start()
        try:
            yield address_of(listening)
        finally:
            # Its own thread closes what it waits for, and with nothing to wait for it ends.
            server.trigger.pull_trigger(lambda: wasyncore.close_all(server._map, ignore_all=True))
            thread.join()
            server.task_dispatcher.shutdown()


def make_server(options: ServeOptions, listening: socket.socket) -> Any:
    """A server with everything loaded, its first query answered: compiled loops and models are then in memory."""
    import waitress

    from search.pages.web import make_app
    from search.searcher import Searcher
    from train_head.compiling import announce_compiling

    # A picture that waits for another needs no line in the terminal.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    with announce_compiling(options.quiet):
        searcher = Searcher(options)
        for _ in searcher.search(["anything"]):
            pass
    taken, kept = searcher.head.most_words, searcher.cache.settings["max_words"]
    if taken is not None and taken < kept:
        print(f"the head of {options.run} takes {taken} tokens of a text, the cache {kept}: longer queries are cut there", file=sys.stderr)
    app = make_app(searcher, _folder(options, searcher.cache.extraction), options.run, options.host)
    return waitress.create_server(
        app,
        sockets=[listening],
        threads=REQUESTS_AT_ONCE,
        max_request_header_size=MAX_HEADER,
        max_request_body_size=MAX_BODY,
        ident=None,
    )


def address_of(listening: socket.socket) -> str:
    """Where a browser on this machine finds the page."""
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _listen(options: ServeOptions) -> socket.socket:
    if not 0 <= options.port < 2**16:
        raise UserError(f"--port {options.port} must be a number from 0 to {2**16 - 1}")
    try:
        family = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((options.host, options.port), family=family)
    except (OSError, UnicodeError) as error:
        # Without the address once more, which Python appends.
        reason = str(error.strerror).partition(" (")[0] if isinstance(error, OSError) else str(error)
        raise UserError(
            f"--host {options.host} --port {options.port} cannot be listened at ({reason}): choose another, such as --port 0"
        ) from error


def _folder(options: ServeOptions, extraction: "Extraction") -> Path | None:
    """The folder of video files, None where it is not named and no longer where it was."""
    if options.videos is not None:
        if not options.videos.is_dir():
            raise UserError(f"--videos {options.videos} is no folder: name that of the video files, or leave it out")
        return options.videos
    if extraction.videos is None:
        print(f"{options.cache} does not say where its videos are: the page has no players; name them with --videos", file=sys.stderr)
        return None
    before = Path(extraction.videos)
    if before.is_dir():
        return before
    print(f"the videos are no longer in {before}: the page has no players; name their folder with --videos", file=sys.stderr)
    return None


if __name__ == "__main__":
    run_command(
        ServeOptions,
        main,
        prog="python -m search.serve",
        examples=("--cache runs/cache --run zero-shot:glccl", "--cache runs/cache --run runs/glccl --videos videos --port 8080"),
    )
