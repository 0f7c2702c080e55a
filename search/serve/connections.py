"""The connections of the server: limits for clients that send too much, too slowly, or do not read."""

import socket
import time
from typing import Any

import waitress
from waitress.channel import HTTPChannel

from search.query.pictures import MAX_BYTES

MAX_HEADER = 2**22
"""Bytes of a request line and headers. It exceeds what browsers send, so that the page itself can reject an overlong query."""
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


class TimedChannel(HTTPChannel):  # type: ignore[misc]
    """A connection that is closed if a request takes too long to arrive, though bytes trickle in."""

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
