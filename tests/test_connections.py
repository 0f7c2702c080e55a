"""The parser of requests: what waitress reads, in time that grows with the length alone."""

import socket
from itertools import pairwise
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waitress.adjustments import Adjustments
from waitress.parser import HTTPRequestParser

from search.serve.connections import MAX_HEADER, MOST_HEADERS, BoundedParser
from search.serve.server import address_of

REQUESTS = {
    "a GET": b"GET /?q=a HTTP/1.1\r\nHost: localhost\r\nX: 1\r\nX: 2\r\n\r\n",
    "a POST": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\n\r\n\r\nab",
    "a POST in pieces": b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    "no request": b"\x16\x03\x01\r\n\r\n",
}
NEXT = b"GET /next HTTP/1.1\r\n\r\n"


def settings() -> Adjustments:
    return Adjustments(max_request_header_size=MAX_HEADER)


def fed(parser: HTTPRequestParser, pieces: list[bytes]) -> tuple[object, ...]:
    """What the parser found, and how many bytes it took, from pieces that arrive one by one."""
    taken = 0
    for piece in pieces:
        left = piece
        while left and not parser.completed:
            some = parser.received(left)
            taken, left = taken + some, left[some:]
    assert parser.completed
    error = parser.error and (parser.error.code, parser.error.body)
    return taken, error, parser.headers, parser.body_rcv and parser.get_body_stream().read()


@pytest.mark.parametrize("kind", REQUESTS)
@given(cuts=st.lists(st.integers(1, 120), max_size=8))
def test_a_request_is_the_same_in_whatever_pieces_it_comes(kind: str, cuts: list[int]) -> None:
    content = REQUESTS[kind] + NEXT
    places = [0, *sorted(cuts), len(content)]
    pieces = [content[first:last] for first, last in pairwise(places)]
    assert fed(BoundedParser(settings()), pieces) == fed(HTTPRequestParser(settings()), [content])


def test_blank_lines_before_a_request_are_skipped_at_once() -> None:
    parser, blank = BoundedParser(settings()), b"\r\n" * 1000
    assert parser.received(blank + REQUESTS["a GET"]) == len(blank) + len(REQUESTS["a GET"])
    assert parser.completed
    assert parser.path == "/"


def test_headers_that_trickle_in_are_read_when_they_are_whole() -> None:
    parser = BoundedParser(settings())
    for _ in range(100):
        assert parser.received(b"X") == 1
        assert parser.header_plus == b""


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        (b"X: y\r\n" * (MOST_HEADERS + 1), 400),
        (b"Content-Length: " + b"9" * 5000 + b"\r\n", 400),
        (b"X: " + b"y" * MAX_HEADER + b"\r\n", 431),
    ],
    ids=["many", "a number of many digits", "long"],
)
def test_headers_that_cannot_be_read_get_a_status(headers: bytes, code: int) -> None:
    parser = BoundedParser(settings())
    parser.received(b"GET / HTTP/1.1\r\n" + headers + b"\r\n")
    assert parser.completed
    assert parser.error.code == code


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("0.0.0.0", socket.AF_INET), ("::", socket.AF_INET6)])
def test_the_printed_address_is_one_that_the_server_listens_on(host: str, family: socket.AddressFamily) -> None:
    try:
        listening = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip("no IPv6 here")
    with listening:
        parts = urlsplit(address_of(listening))
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10).close()
