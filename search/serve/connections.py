"""The connections of the server: limits for clients that send too much, too slowly, or do not read."""

import socket
import time
from typing import Any

import waitress
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError

from search.query.pictures import MAX_BYTES

MAX_HEADER = 2**22
"""Bytes of a request line and headers. It exceeds what browsers send, so that the page itself can reject an overlong query."""
MOST_HEADERS = 200
"""Lines of a request's headers. Browsers send about 20, and proxies add a few."""
MAX_BODY = MAX_BYTES + 2**16
"""Bytes of a request body: a picture, and the form around it."""
MOST_CONNECTIONS = 500
"""Connections at the same time. Each has a file descriptor, of which a process has 1,024, or two."""
IDLE_S = 60
"""Seconds after which a connection is closed on which nothing moves."""
HEADER_S, BODY_S = 20.0, 300.0
"""Seconds in which a client must have sent the headers of a request, and all of it."""
CHECK_S = 5
"""Seconds between looks for connections to close."""


class BoundedParser(HTTPRequestParser):  # type: ignore[misc]
    """A parser whose time grows with the length of the headers only. Waitress searches all that has come with every piece that arrives,
    copies what is left for every blank line, and joins headers of the same name one by one: a few MB would keep its loop, which serves
    everybody, busy for a minute."""

    def __init__(self, adj: Any) -> None:
        super().__init__(adj)
        self._held = bytearray()

    def received(self, data: bytes) -> int:
        """Take what has arrived and return how many bytes of it belong to this request. Called by the channel."""
        taken: int
        if self.completed or self.body_rcv is not None:
            taken = super().received(data)
            return taken
        before = len(self._held)
        blank = 0 if before else len(data) - len(data.lstrip(b"\r\n"))
        self._held += data[blank:]
        if self._held.find(b"\r\n\r\n", max(0, before - 3)) < 0 and len(self._held) < MAX_HEADER:
            return len(data)
        whole = bytes(self._held)
        self._held.clear()
        taken = super().received(whole)
        return blank + taken - before

    def parse_header(self, header_plus: bytes) -> None:
        """Read the request line and the headers. Raises ParsingError, for which waitress answers with status 400."""
        if header_plus.count(b"\n") > MOST_HEADERS:
            raise ParsingError(f"more than {MOST_HEADERS} lines of headers")
        try:
            super().parse_header(header_plus)
        except ValueError as error:
            # Python refuses to read a number of thousands of digits.
            raise ParsingError("Content-Length is invalid") from error


class TimedChannel(HTTPChannel):  # type: ignore[misc]
    """A connection that is closed if a request takes too long to arrive, though bytes trickle in."""

    parser_class = BoundedParser

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._began = time.monotonic()

    def received(self, data: bytes) -> bool:
        """Take what has arrived. Called by waitress."""
        if self.request is None:
            self._began = time.monotonic()
        taken: bool = super().received(data)
        return taken

    def readable(self) -> bool:
        """Whether to read on. Called by waitress in every turn of its loop, at least once a second."""
        if self.request is not None:
            longest = BODY_S if self.request.headers_finished else HEADER_S
            if time.monotonic() - self._began > longest:
                self.will_close = True
        reads: bool = super().readable()
        return reads


def make_waitress(app: Any, listening: socket.socket, threads: int, trusted_proxy: str | None) -> Any:
    """A server of this WSGI application. `trusted_proxy`: the address whose X-Forwarded-For and X-Forwarded-Proto count.

    What an answer does not fit into the client's buffers waits outside of the thread that made it, in memory and then in a file.
    """
    headers = {} if trusted_proxy is None else {"trusted_proxy_headers": {"x-forwarded-for", "x-forwarded-proto"}, "trusted_proxy_count": 1}
    server = waitress.create_server(
        app,
        sockets=[listening],
        threads=threads,
        max_request_header_size=MAX_HEADER,
        max_request_body_size=MAX_BODY,
        connection_limit=MOST_CONNECTIONS,
        channel_timeout=IDLE_S,
        cleanup_interval=CHECK_S,
        channel_request_lookahead=1,  # to see that a client is gone
        recv_bytes=2**18,  # what has arrived of long headers is searched anew after every piece
        asyncore_use_poll=True,  # select() ends at 1,024 descriptors
        log_socket_errors=False,
        ident=None,
        trusted_proxy=trusted_proxy,
        **headers,
    )
    server.channel_class = TimedChannel
    return server
