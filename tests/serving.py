"""A small search page for tests of the server: its options, and raw requests over a socket."""

import socket
from urllib.parse import urlsplit


def raw(address: str, request: bytes, timeout: float = 30) -> bytes:
    """Everything that the server sends in reply to these bytes until it closes the connection."""
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), timeout=timeout) as connection:
        connection.sendall(request)
        received = b""
        while some := connection.recv(65536):
            received += some
        return received
