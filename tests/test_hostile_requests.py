"""Requests that no browser sends, over a real socket: a status and nothing else, and the server goes on."""

import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.cache import FeatureCache
from search import serve
from search.serve import ServeOptions
from search.serve.connections import MAX_BODY, MAX_HEADER
from tests.caches import rewritten
from tests.conftest import ROOT
from tests.waiting import wait_until

pytestmark = pytest.mark.long

CLOSE = b"Host: localhost\r\nConnection: close\r\n"
BIG = 64 * 2**20
"""Bytes of a video: more than the server keeps for a connection, 16 MiB."""
IDS = [f"video{number}" for number in range(1, 5)]
TOKEN = "a-token-of-the-tests-3fQ"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "videos"
    folder.mkdir()
    (folder.parent / "secret.mp4").write_bytes(b"a secret")
    for name in IDS:
        with (folder / f"{name}.mp4").open("wb") as file:
            file.truncate(BIG)
            file.seek(BIG - 8)
            file.write(b"the end.")
    return folder


@pytest.fixture(scope="module")
def gallery(cache_path: Path, videos: Path) -> Path:
    """A cache of some videos, said to be made from those large files."""
    cache = FeatureCache(cache_path)
    made = rewritten(cache, videos.parent / "cache", {name: name for name in IDS}, thumbnails=True, files=videos)
    table = cache.listings.videos("demo").head(len(IDS)).assign(video_id=IDS, split="test", file=[f"{name}.mp4" for name in IDS])
    made.write_table("demo", cache.table().head(0), table)
    return made.path


@pytest.fixture(scope="module")
def options(gallery: Path, videos: Path) -> ServeOptions:
    return ServeOptions(
        cache=gallery, run="zero-shot:mean", videos=videos, port=0, device="cpu", quiet=True, top=3, queue=1, queries_at_once=1
    )


@pytest.fixture(scope="module")
def address(options: ServeOptions) -> Iterator[str]:
    with serve.serving(options) as url:
        yield url


@pytest.fixture(scope="module")
def guarded(options: ServeOptions) -> Iterator[str]:
    """A server with a token."""
    with serve.serving(replace(options, token=TOKEN)) as url:
        yield url


def connect(address: str) -> socket.socket:
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=60)


def sent(address: str, request: bytes) -> bytes:
    """What the server sends for these bytes until it closes the connection."""
    with connect(address) as connection:
        received = b""
        # The server does not read a body that it refuses.
        with suppress(ConnectionError):
            connection.sendall(request)
            while some := connection.recv(2**16):
                received += some
        return received


@pytest.fixture(scope="module")
def video(address: str) -> bytes:
    """The path of a video, from a page."""
    found = re.search(rb'<video [^>]*src="([^"#]+)', urlopen(f"{address}?q=a+ring", timeout=60).read())
    assert found
    return found[1]


def status(answer: bytes) -> int:
    """The status of an answer that gives nothing away."""
    for secret in (b"Traceback", str(ROOT).encode(), b"site-packages", b"/tmp/", b"a secret", b"root:", TOKEN.encode()):
        assert secret not in answer
    assert answer.startswith(b"HTTP/1."), answer[:100]
    return int(answer.split(b" ", 2)[1])


def answers(address: str) -> bool:
    """Whether the server still answers a query."""
    return b"score" in urlopen(f"{address}results?q=a+ring", timeout=60).read()


UP = st.sampled_from(["..", ".", "%2e%2e", ".%2e", "%252e%252e", "..%00", "..;", "%c0%ae%c0%ae", "...", "~", "", "%ff"])
BETWEEN = st.sampled_from(["/", "//", "%2f", "\\", "%5c", "%252f", "/./", "\t"])
GOAL = st.sampled_from(["etc/passwd", "secret.mp4", "video0.mp4", "0", "-1", "99999999999999999999", "0/0", "0/../1", "proc/self/environ"])
PAGES = ["", "video", "thumbnail", "results", "search.css", "login", "static"]
API = ["api/videos", "api/thumbnails", "api/files", "api/search", "api/captions"]
PATHS = st.builds(
    lambda route, steps, goal: "/" + route + "".join(f"{between}{up}" for between, up in steps) + "/" + goal,
    st.sampled_from([*PAGES, *API]),
    st.lists(st.tuples(BETWEEN, UP), max_size=5),
    GOAL,
)


METHODS = st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"])
RAW = st.binary(max_size=200) | st.builds(
    lambda method, path, name, value, body: b"%s %s HTTP/1.1\r\n%s%s: %s\r\n\r\n%s" % (method.encode(), path, CLOSE, name, value, body),
    METHODS,
    st.binary(min_size=1, max_size=20),
    st.sampled_from([b"Content-Length", b"Transfer-Encoding", b"Range", b"Cookie", b"Authorization", b"Content-Type", b"If-Range", b"X"]),
    st.binary(max_size=40) | st.sampled_from([b"-1", b"9" * 30, b"chunked", b"bytes=9-1", b"bytes=-", b"multipart/form-data", b"gzip"]),
    st.binary(max_size=60),
)
FEW = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
MANY = settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))


def ask_for_path(address: str, path: str, method: str) -> None:
    found = status(sent(address, f"{method} {path} HTTP/1.1\r\n".encode() + CLOSE + b"Range: bytes=0-9\r\n\r\n"))
    assert found in (200, 206, 301, 308, 400, 401, 404, 405, 415, 422, 501), (path, method)


@FEW
@given(path=PATHS, method=METHODS)
def test_no_path_leads_out_of_the_folder(address: str, path: str, method: str) -> None:
    ask_for_path(address, path, method)


@MANY
@given(path=PATHS, method=METHODS)
def test_no_path_leads_out_of_the_folder_however_long_one_looks(address: str, path: str, method: str) -> None:
    ask_for_path(address, path, method)


def send_raw(address: str, request: bytes) -> None:
    with connect(address) as connection:
        connection.sendall(request)
        # Otherwise the server would wait for the rest of a request.
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(2**16)
    assert not answer or status(answer) < 500 or status(answer) == 501, request


@FEW
@given(request=RAW)
def test_bytes_that_are_no_request_end_nothing(address: str, request: bytes) -> None:
    send_raw(address, request)


@MANY
@given(request=RAW)
def test_bytes_that_are_no_request_end_nothing_however_many(address: str, request: bytes) -> None:
    send_raw(address, request)
    assert answers(address)


FORM = b"Content-Type: multipart/form-data; boundary=x\r\n"
BODIES = {
    "a form that never ends": (FORM, b"--x\r\nContent-Disposition: form-data; name=image; filename=a\r\n\r\n" + b"\x00" * 1000),
    "a form without a boundary": (b"Content-Type: multipart/form-data\r\n", b"--x\r\n\r\n--x--"),
    "a form of nothing": (FORM, b""),
    "a part with a long header": (FORM, b"--x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n\r\n--x--"),
    "many parts": (FORM, b"--x\r\nContent-Disposition: form-data; name=q\r\n\r\na\r\n" * 1000 + b"--x--"),
    "many fields": (b"Content-Type: application/x-www-form-urlencoded\r\n", b"q=a&" * 10_000),
    "a large field": (FORM, b"--x\r\nContent-Disposition: form-data; name=q\r\n\r\n" + b"a" * 2**20 + b"\r\n--x--"),
    "broken JSON": (b"Content-Type: application/json\r\n", b"[" * 100_000),
    "a name of a file that leads out": (
        FORM,
        b'--x\r\nContent-Disposition: form-data; name=image; filename="../../../etc/passwd"\r\n\r\nnone\r\n--x--',
    ),
}


# Werkzeug leaves the file of a broken form to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", BODIES)
def test_broken_bodies_get_a_status(address: str, guarded: str, kind: str) -> None:
    headers, body = BODIES[kind]
    whole = CLOSE + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body
    for path in (b"/", b"/results", b"/api/search", b"/search.css"):
        # Some of them ask for something after all.
        assert status(sent(address, b"POST %s HTTP/1.1\r\n" % path + whole)) in (200, 400, 404, 405, 413, 415, 422)
    assert status(sent(guarded, b"POST /login HTTP/1.1\r\n" + whole)) in (400, 401, 413, 429)
    assert status(sent(guarded, b"POST /results HTTP/1.1\r\n" + whole)) == 401


@pytest.mark.parametrize("announced", [True, False])
def test_fifty_megabytes_are_refused_unread(address: str, announced: bool) -> None:
    body = b"\x00" * (50 * 2**20)
    length = b"Content-Length: %d\r\n\r\n" if announced else b"Transfer-Encoding: chunked\r\n\r\n%x\r\n"
    answer = b""
    with connect(address) as connection, suppress(ConnectionError):
        connection.sendall(b"POST /results HTTP/1.1\r\n" + CLOSE + length % len(body))
        connection.sendall(body)
        answer = connection.recv(2**16)
    assert not answer or status(answer) == 413
    assert len(body) > MAX_BODY
    assert answers(address)


def test_large_headers_get_a_status(address: str) -> None:
    for name in (b"X-Large", b"Cookie", b"Authorization", b"Range", b"Accept"):
        assert status(sent(address, b"GET / HTTP/1.1\r\n" + CLOSE + name + b": " + b"a" * 100_000 + b"\r\n\r\n")) in (200, 400)
    assert status(sent(address, b"GET / HTTP/1.1\r\n" + CLOSE + b"X: " + b"a" * MAX_HEADER + b"\r\n\r\n")) == 431
    many = b"".join(b"X-%d: a\r\n" % i for i in range(20_000))
    assert status(sent(address, b"GET / HTTP/1.1\r\n" + CLOSE + many + b"\r\n")) == 400


def test_wrong_methods_get_a_status(address: str) -> None:
    for method in (b"PUT", b"DELETE", b"PATCH", b"TRACE", b"CONNECT"):
        for path in (b"/", b"/results?q=a", b"/video/0", b"/thumbnail/0/0", b"/search.js"):
            assert status(sent(address, method + b" " + path + b" HTTP/1.1\r\n" + CLOSE + b"\r\n")) == 405


def test_who_does_not_read_holds_no_thread(address: str, video: bytes) -> None:
    """More clients than the server has threads ask for a video, whole or in part, and read nothing of it."""
    asleep = []
    try:
        for part in (b"", b"Range: bytes=1-\r\n") * 10:
            connection = connect(address)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(b"GET " + video + b" HTTP/1.1\r\nHost: localhost\r\n" + part + b"\r\n")
            asleep.append(connection)
        for connection in asleep:
            assert status(connection.recv(100)) in (200, 206)
        assert answers(address)
    finally:
        for connection in asleep:
            connection.close()


def test_the_range_of_a_large_video_is_whole(address: str, video: bytes) -> None:
    part = b"Range: bytes=%d-%d\r\n\r\n" % (BIG - 7, BIG - 2)
    answer = sent(address, b"GET " + video + b" HTTP/1.1\r\n" + CLOSE + part)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b"he end"
    assert b"Content-Length: 6\r\n" in head + b"\r\n"


def test_a_request_that_trickles_in_is_cut_off(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.serve.connections.HEADER_S", 0.3)
    monkeypatch.setattr("search.serve.connections.BODY_S", 0.5)
    slow = [connect(address) for _ in range(20)]
    for i, connection in enumerate(slow):
        connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\n" + b"Content-Length: 1000\r\n\r\n" * (i % 2))
    assert answers(address)

    def cut_off(connection: socket.socket) -> bool:
        """A byte now and then would keep a connection open that is closed when it is idle."""
        try:
            connection.sendall(b"a")
        except OSError:
            return True
        return False

    for connection in slow:
        with connection:
            wait_until(partial(cut_off, connection), "the connection is closed")
    assert answers(address)


def test_who_hangs_up_leaves_the_queue(address: str) -> None:
    for _ in range(30):
        with connect(address) as connection:
            connection.sendall(b"GET /results?q=a+ring HTTP/1.1\r\nHost: localhost\r\n\r\n")

    def answered() -> bool:
        found = sent(address, b"GET /results?q=a HTTP/1.1\r\n" + CLOSE + b"\r\n")
        assert status(found) == 200 or b"Retry-After: " in found
        return status(found) == 200

    wait_until(answered, "the queue has room again")
