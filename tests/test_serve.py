"""The served page: in process, over a real socket, and in a browser."""

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html import escape, unescape
from pathlib import Path
from threading import Thread
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import Request, urlopen

import pytest
import waitress
from flask.testing import FlaskClient
from playwright.sync_api import expect

import extract
import search
from data.base.errors import UserError
from data.cache import FeatureCache
from extract import ExtractOptions
from search import SearchOptions, serve
from search.pages.page import clock
from search.retrieval.queries import MAX_QUERY
from search.searcher import Searcher
from search.serve import ServeOptions
from search.serve.answering import Answering
from search.serve.app import HEADERS, make_app
from search.serve.server import stop
from tests.browser import OpenPage
from tests.caches import QUERY, jpeg, rewritten
from tests.conftest import DEMO_CLIP, ROOT

HOSTILE = {
    "markup": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "quotes": "\"'><svg/onload=alert(1)>",
    "template": "{{ 7 * 7 }}{% raw %}${7*7}#{7*7}",
    "control characters": "a\x00b\x1b[2J\r\nSet-Cookie: a=b",
    "other directions": "\u202eabc\u2066",
    "path": "../../../../etc/passwd",
    "format": "%s%n{0}{query.__class__}",
    "emoji": "👩‍👩‍👧‍👦" * 50,
}


@pytest.fixture(scope="module", autouse=True)
def patience() -> Iterator[None]:
    """A busy machine takes its time to decode and to draw."""
    expect.set_options(timeout=30_000)
    yield
    expect.set_options(timeout=5_000)


@pytest.fixture(scope="module")
def served_cache(cache_path: Path, demo_set: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """Videos of the demo set with pictures, under names that have to be escaped; one whose file is listed outside of the folder."""
    cache = FeatureCache(cache_path)
    ids = {f"video{i}": f"video{i}" for i in range(1, 7)} | {"video7": "<b>&video7", "video8": "outside", "video9": "gone"}
    made = rewritten(cache, tmp_path_factory.mktemp("served") / "cache", ids, thumbnails=True, files=demo_set / "videos")
    table = cache.listings.videos("demo").head(9).assign(video_id=list(ids.values()), split="test")
    table["file"] = [f"video{i}.mp4" for i in range(1, 8)] + ["../secret.mp4", "gone.mp4"]
    made.write_table("demo", cache.table().head(0), table)
    return made


@pytest.fixture(scope="module")
def videos(demo_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files") / "videos"
    folder.mkdir()
    for i in range(1, 7):
        shutil.copy(demo_set / "videos" / f"video{i}.mp4", folder)
    (folder.parent / "secret.mp4").write_bytes(b"secret")
    (folder / "unlisted.mp4").write_bytes(b"secret")
    (folder / "video7.mp4").symlink_to(folder.parent / "secret.mp4")
    return folder


@pytest.fixture(scope="module")
def options(served_cache: FeatureCache, videos: Path) -> ServeOptions:
    return ServeOptions(cache=served_cache.path, run="zero-shot:glccl", videos=videos, port=0, device="cpu", quiet=True)


@pytest.fixture(scope="module")
def searcher(options: ServeOptions) -> Searcher:
    return Searcher(options)


@pytest.fixture
def client(searcher: Searcher, options: ServeOptions) -> FlaskClient:
    app = make_app(Answering(searcher), options.videos, options.run, options.host)
    app.testing = True  # an exception in a page fails the test
    return app.test_client()


@pytest.fixture(scope="module")
def address(options: ServeOptions) -> Iterator[str]:
    with serve.serving(options) as url:
        yield url


def test_the_page_without_scripts_gives_what_search_gives(client: FlaskClient, options: ServeOptions) -> None:
    asked = SearchOptions(cache=options.cache, run=options.run, query=(QUERY,), device="cpu", quiet=True)
    page = client.get("/", query_string={"q": QUERY})
    assert page.status_code == 200
    answer = search.main(asked)[0]
    # Parsed by the marks of the results' template.
    shown = [escape(hit.video_id) for hit in answer.hits]
    assert re.findall(r'data-video="([^"]*)"', page.text) == shown
    assert re.findall(r"score (-?[\d.]+)", page.text) == [f"{hit.score:.3f}" for hit in answer.hits]
    assert re.findall(r'class="best" (?:.|\n)*?class="time">([\d:.]+)', page.text) == [clock(hit.moment.seconds) for hit in answer.hits]
    assert f'value="{QUERY}"' in page.text
    alone = client.get("/results", query_string={"q": QUERY})
    assert re.findall(r'data-video="([^"]*)"', alone.text) == shown
    assert "<form" not in alone.text


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_queries_do_nothing_but_get_an_answer(client: FlaskClient, kind: str) -> None:
    plain = client.get("/", query_string={"q": "a cat"}).text
    for path in ("/", "/results"):
        page = client.get(path, query_string={"q": HOSTILE[kind]})
        assert page.status_code == 200
        assert "Set-Cookie" not in page.headers
        tags = re.findall(r"<(?!/)\w+", page.text)
        assert set(tags) <= set(re.findall(r"<(?!/)\w+", plain))
        assert tags.count("<script") == (path == "/")
        # 7 * 7, and not the digits of a score or a time.
        assert not re.search(r"(?<![\d.])49(?![\d.])", re.sub(r"[\d.:]+(?=<| ms)|\"[^\"]*\"", "", page.text))
        assert not re.search("[\x00-\x08\x0b-\x1f]", page.text)


@pytest.mark.parametrize("query", ["", " \t ", "%00%1b", "%0a"])
def test_a_query_of_nothing_is_answered_with_a_line(client: FlaskClient, query: str) -> None:
    page = client.get(f"/?q={query}")
    assert page.status_code == 400
    assert "The query is empty" in page.text


def test_bytes_that_are_no_text_and_halves_of_characters_are_searched_as_marks(client: FlaskClient) -> None:
    for query in ("%ff%fe", "%ED%A0%80", "a%C3"):
        assert client.get(f"/?q={query}").status_code == 200


@pytest.mark.parametrize(
    ("asked", "title"),
    [
        ("", "Video search"),
        ("?q=", "Video search"),
        ("?q=a+ring", "a ring - video search"),
        ("?q=%3C/title%3E%22", "&lt;/title&gt;&#34; - video search"),
        ("?q=" + "x" * 100, "x" * 59 + "… - video search"),
    ],
)
def test_the_title_follows_the_query(client: FlaskClient, asked: str, title: str) -> None:
    assert f"<title>{title}</title>" in client.get(f"/{asked}").text
    assert f'data-title="{title}"' in client.get(f"/results{asked}").text  # the page's script takes it from there


@pytest.mark.parametrize("size", [MAX_QUERY + 1, 10**6])
def test_too_long_a_query_is_refused_in_one_line(client: FlaskClient, size: int) -> None:
    page = client.get("/", query_string={"q": "x" * size})
    assert page.status_code == 413
    assert len(page.data) < len(client.get("/").data) + 1000
    assert f"The query has {size:,} characters: shorten it" in page.text


def test_too_many_values_are_refused_in_one_line_and_not_shown(client: FlaskClient) -> None:
    page = client.get("/", query_string={"path": [str(number) for number in range(3000)]})
    assert page.status_code == 413
    assert len(page.data) < len(client.get("/").data) + 1000
    assert "“Folder or name” has 3,000 values: give 20 or fewer" in page.text


@pytest.mark.parametrize(
    "path",
    [
        "/video/../../secret.mp4",
        "/video/..%2f..%2fsecret.mp4",
        "/video/%2e%2e/%2e%2e/etc/passwd",
        "/video//etc/passwd",
        "/video/..\\secret.mp4",
        "/video/1%00.mp4",
        "/video/unlisted.mp4",
        "/video/video1.mp4",
        "/video/secret.mp4",
        "/video/../secret.mp4",
        "/video/-1",
        "/video/99",
        "/video/0",
        "/video/" + "9" * 400,
        "/thumbnail/video1/999",
        "/thumbnail/video1/-1",
        "/thumbnail/99/0",
        "/thumbnail/../0",
        "/?captions=99",
        "/search.html",
        "/templates/search.css",
        "/../serve.py",
    ],
)
def test_nothing_is_served_but_what_the_page_links_to(client: FlaskClient, path: str) -> None:
    answer = client.get(path, follow_redirects=True)
    assert answer.status_code == 404
    assert b"secret" not in answer.data.replace(b"secret.mp4", b"")


def test_files_outside_of_the_folder_are_not_served(client: FlaskClient) -> None:
    """One that the table lists there, one behind a link, one that is gone; their results have no player."""
    page = client.get("/", query_string={"q": QUERY}).text
    for video_id in ("outside", "<b>&video7", "gone"):
        assert client.get(f"/video/{quote(video_id)}").status_code == 404
        assert f'src="/video/{escape(quote(video_id))}"' not in page
    assert 'src="/video/video1"' in page
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;video7" in page


def test_videos_are_sent_in_the_ranges_that_players_ask_for(client: FlaskClient, videos: Path) -> None:
    content = (videos / "video3.mp4").read_bytes()
    path = "/video/video3"
    whole = client.get(path, buffered=True)
    assert (whole.status_code, whole.data, whole.mimetype) == (200, content, "video/mp4")
    part = client.get(path, headers={"Range": "bytes=100-199"}, buffered=True)
    assert (part.status_code, part.data) == (206, content[100:200])
    assert part.headers["Content-Range"] == f"bytes 100-199/{len(content)}"
    last = client.get(path, headers={"Range": "bytes=-50"}, buffered=True)
    assert (last.status_code, last.data) == (206, content[-50:])
    assert client.get(path, headers={"Range": f"bytes={len(content)}-"}, buffered=True).status_code == 416


def test_videos_whose_names_are_no_text_play(cache_path: Path, demo_set: Path, tmp_path: Path) -> None:
    """Extracted under the names of a listing, and fetched over a socket; one of them looks like the escape of another."""
    folder = tmp_path / os.fsdecode(b"vid\xe9os")
    names = [b"caf\xe9 <b>.mp4", b"caf\\xe9 <b>.mp4x.mp4", b"back\\xff\xff.mp4", "café.mp4".encode(), b"s\xfcb/\xe9.mp4"]
    (folder / os.fsdecode(b"s\xfcb")).mkdir(parents=True)
    for i, name in enumerate(names, start=1):
        shutil.copy(demo_set / "videos" / f"video{i}.mp4", folder / os.fsdecode(name))
    made = extract.main(ExtractOptions(videos=folder, cache=tmp_path / os.fsdecode(b"c\xe9che"), model=DEMO_CLIP, device="cpu", quiet=True))
    options = ServeOptions(cache=made, run="zero-shot:mean", port=0, device="cpu", quiet=True)
    with serve.serving(options) as url:
        page = urlopen(f"{url}?q=a+ring").read().decode()
        assert page.count("<video ") == len(names)
        assert "caf\\xe9 &lt;b&gt;.mp4</h3>" in page
        fetched = set()
        for path in re.findall(r' src="/(video/[^"]*)"', page):
            part = urlopen(Request(url + unescape(path), headers={"Range": "bytes=100-199"}))
            assert (part.status, part.headers["Content-Type"]) == (206, "video/mp4")
            fetched.add((part.read(), part.headers["Content-Range"]))
        for path in re.findall(r' src="/(thumbnail/[^"]*)"', page):
            assert urlopen(url + unescape(path)).headers["Content-Type"] == "image/jpeg"
    contents = [(folder / os.fsdecode(name)).read_bytes() for name in names]
    assert fetched == {(content[100:200], f"bytes 100-199/{len(content)}") for content in contents}


def test_thumbnails_are_served(client: FlaskClient) -> None:
    picture = client.get("/thumbnail/video1/1")
    assert (picture.data, picture.mimetype) == (jpeg(2), "image/jpeg")


def test_every_answer_carries_the_headers_that_keep_a_browser_safe(client: FlaskClient) -> None:
    for path in ("/", "/?q=a", "/?q=", "/results?q=a", "/video/video3", "/video/99", "/search.js", "/search.css", "/nowhere"):
        answer = client.get(path, buffered=True)
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script>", client.get("/?q=a").text)
    assert client.put("/", data={"q": "a"}).status_code == 405


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("[::1]:8000", 200),
        ("192.168.1.5:8000", 200),
        (socket.gethostname(), 200),
        ("evil.example", 400),
        ("evil.example:8000", 400),
        ("127.0.0.1.evil.example", 400),
        ("[", 400),
        ("", 400),
    ],
)
def test_requests_by_a_foreign_name_are_refused(client: FlaskClient, host: str, status: int) -> None:
    """A page of evil.example whose name is made to point here must not read answers as its own."""
    assert client.get("/", headers={"Host": host}).status_code == status
    assert client.get("/thumbnail/video1/0", headers={"Host": host}).status_code == status


def test_captions_of_a_video_are_ranked_where_the_cache_has_some(client: FlaskClient, cache: FeatureCache, options: ServeOptions) -> None:
    assert "its captions" not in client.get("/?q=a").text
    page = client.get("/?captions=video1")
    assert page.status_code == 400
    assert "has no captions" in page.text
    searcher = Searcher(replace(options, cache=cache.path, top=3))
    whole = make_app(Answering(searcher), None, options.run, options.host).test_client()
    assert whole.get("/?q=a").text.count(">its captions</a>") == 3
    table = whole.get(f"/?captions={searcher.gallery.ids[5]}").text
    assert f"<title>captions of {searcher.gallery.ids[5]} - video search</title>" in table
    assert "Best 3 captions" in table
    expected = searcher.captions(5, searcher.cached_captions())
    for hit in expected:
        assert f"{hit.score:.3f}</td>" in table
        assert f">{hit.caption}</a>" in table


def test_queries_that_come_together_are_answered_as_those_that_come_alone(searcher: Searcher, options: ServeOptions) -> None:
    app = make_app(Answering(searcher), options.videos, options.run, options.host)

    def scores(query: str) -> list[str]:
        return re.findall(r"score (-?[\d.]+)", app.test_client().get("/results", query_string={"q": query}).text)

    queries = [f"a {colour} {shape}" for colour in ("red", "blue", "green") for shape in ("cross", "star", "heart")]
    alone = [scores(query) for query in queries]
    with ThreadPoolExecutor(len(queries)) as pool:
        assert list(pool.map(scores, queries)) == alone


def test_a_megabyte_over_a_real_socket_gets_an_answer(address: str) -> None:
    for query, status in (("x" * 10**6, 413), ("<" * 10**6, 413), ("a", 200)):
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
        connection.request("GET", "/?" + urlencode({"q": query}))
        answer = connection.getresponse()
        assert answer.status == status
        assert b"Traceback" not in answer.read()
        connection.close()


def test_a_port_that_is_taken_and_other_slips_are_said_in_one_line(options: ServeOptions, address: str, tmp_path: Path) -> None:
    taken = replace(options, port=urlsplit(address).port or 0)
    for wrong, line in (
        (taken, r"cannot listen on --host 127\.0\.0\.1 --port \d+ \(Address already in use\): choose another"),
        (replace(options, port=70000), "--port 70000 must be a number from 0 to 65535"),
        (replace(options, host="no such host"), "cannot listen on --host no such host --port 0"),
        (replace(options, videos=tmp_path / "nowhere"), "nowhere is not a folder"),
        (replace(options, run="nowhere"), "--run nowhere: there is no such folder"),
    ):
        with pytest.raises(UserError, match=line) as raised:
            serve.main(wrong)
        assert "\n" not in str(raised.value)


@pytest.mark.long
def test_the_command_answers_until_it_is_ended(options: ServeOptions, cache_path: Path) -> None:
    command = [sys.executable, "-m", "search.serve", "--cache", str(cache_path), "--run", "zero-shot:mean", "--port", "0", "--quiet"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout is not None
    found = re.search(r"http://(127\.0\.0\.1:\d+)/", server.stdout.readline())
    assert found
    connection = http.client.HTTPConnection(found[1], timeout=60)
    connection.request("GET", "/?" + urlencode({"q": QUERY}))
    assert connection.getresponse().read().startswith(b"<!doctype html>")
    connection.close()
    server.send_signal(signal.SIGTERM)
    _, said = server.communicate(timeout=60)
    assert server.returncode == 130
    assert said == "interrupted; the server has stopped; run the same command to start it again\n"


def test_in_a_browser_a_query_is_answered_and_a_moment_shown(open_page: OpenPage, address: str) -> None:
    page = open_page(address)
    field = page.get_by_label("What happens in the video?")
    expect(field).to_be_focused()
    field.fill(QUERY)
    field.press("Enter")
    results = page.locator("#answer .result")
    expect(results).to_have_count(9)
    assert page.url == address + "?" + urlencode({"q": QUERY})
    expect(page).to_have_title(f"{QUERY} - video search")
    expect(page.locator("#answer[aria-busy=false] #status")).to_contain_text(QUERY)
    expect(page.locator("[aria-live=polite]")).to_contain_text(QUERY)
    expect(results.first.locator(".strip img").nth(1)).to_have_js_property("naturalWidth", 8)
    result = results.filter(has=page.locator("video")).first
    link = result.get_by_role("link", name=re.compile("^[0-9:]+$")).first
    seconds = float(link.get_attribute("data-seconds") or "nan")
    link.focus()
    link.press("Enter")
    expect(result.locator("video")).to_have_js_property("seeking", False)
    expect(result.locator("video")).not_to_have_js_property("readyState", 0)
    assert result.locator("video").evaluate("player => player.currentTime") >= seconds
    expect(result.locator("video")).to_be_focused()
    field.fill("a blue star")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#status")).to_contain_text("a blue star")
    expect(page).to_have_title("a blue star - video search")
    page.go_back()
    expect(page.locator("#status")).to_contain_text(QUERY)
    expect(field).to_have_value(QUERY)
    expect(page).to_have_title(f"{QUERY} - video search")


def test_a_server_stops_though_a_thread_that_answers_wakes_it_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = waitress.create_server(lambda _environ, _start: [], sockets=[listening])
        thread = Thread(target=server.run, daemon=True)
        thread.start()
        wake = server.trigger._physical_pull

        def wake_twice() -> None:
            wake()
            thread.join()
            wake()

        monkeypatch.setattr(server.trigger, "_physical_pull", wake_twice)
        stop(server, thread)
        assert not thread.is_alive()
        with pytest.raises(OSError, match="Bad file descriptor"):
            wake()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_without_scripts_on_a_phone(open_page: OpenPage, address: str, scheme: str) -> None:
    page = open_page(address, java_script_enabled=False, viewport={"width": 360, "height": 640}, color_scheme=scheme)
    page.get_by_label("What happens in the video?").fill(HOSTILE["markup"])
    page.get_by_role("button", name="Search").click()
    expect(page.locator(".result")).to_have_count(9)
    expect(page.locator("#status")).to_contain_text(HOSTILE["markup"])
    body = page.locator("body").bounding_box()
    assert body is not None
    assert body["width"] <= 360
    for box in (row.bounding_box() for row in page.locator(".result, .frames, form, h3").all()):
        assert box is not None
        assert box["x"] + box["width"] <= 360


def test_in_a_browser_hostile_queries_run_nothing(open_page: OpenPage, address: str) -> None:
    page = open_page(address)
    page.on("dialog", lambda _dialog: pytest.fail("a query ran a script"))
    for query in HOSTILE.values():
        page.get_by_label("What happens in the video?").fill(query)
        page.get_by_role("button", name="Search").click()
        shown = re.sub("[\x00-\x1f]", " ", query).strip()
        expect(page.locator("#answer[aria-busy=false] #status")).to_contain_text(shown)
        expect(page.locator(".result")).to_have_count(9)
        assert page.locator("#answer script, #answer [onerror], #answer [onload]").count() == 0
