"""Beyond loopback: the token, other sites, rates, names and proxies."""

import http.client
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from flask.testing import FlaskClient
from playwright.sync_api import expect

from data.base.errors import UserError
from search import serve
from search.searcher import Searcher
from search.serve import ServeOptions
from search.serve.access import Access
from search.serve.answering import Answering
from search.serve.app import make_app
from search.serve.login import COOKIE, HOURS, LOGINS_AT_ONCE, TOKEN_VARIABLE, find_token
from search.serve.rates import MOST_ADDRESSES, Rates
from tests.browser import OpenPage

TOKEN = "a-token-of-the-tests-3fQ"
PATHS = (
    "/",
    "/?q=a",
    "/results?q=a",
    "/thumbnail/0/0",
    "/video/0",
    "/search.js",
    "/nowhere",
    "/api/search?q=a",
    "/login/",
    "/LOGIN",
)


@pytest.fixture(scope="module")
def options(cache_path: Path) -> ServeOptions:
    return ServeOptions(cache=cache_path, run="zero-shot:mean", port=0, device="cpu", quiet=True, token=TOKEN)


@pytest.fixture(scope="module")
def answers(options: ServeOptions) -> Iterator[Answering]:
    with Answering(Searcher(options)) as made:
        yield made


MakeClient = Callable[..., FlaskClient]


@pytest.fixture
def client_of(answers: Answering) -> MakeClient:
    def make(**access: object) -> FlaskClient:
        app = make_app(answers, None, "run", "127.0.0.1", Access(**access))  # type: ignore[arg-type]
        app.testing = True
        return app.test_client()

    return make


def test_without_the_token_nothing_is_served_but_the_form_and_its_style(client_of: MakeClient) -> None:
    client = client_of(token=TOKEN)
    for path in PATHS:
        refused = client.get(path)
        assert refused.status_code in (401, 308), path
        assert "score" not in refused.text
    form = client.get("/?q=a+ring")
    assert '<form action="/login" method="post"' in form.text
    assert 'value="/?q=a+ring"' in form.text
    assert client.get("/login").status_code == 200
    assert client.get("/search.css", buffered=True).status_code == 200
    program = client.get("/results?q=a")
    assert (program.mimetype, program.headers["WWW-Authenticate"]) == ("text/plain", "Bearer")
    assert "Content-Security-Policy" in program.headers


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN} ", 200),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Bearer {TOKEN}x", 401),
        ("Bearer ", 401),
        ("Bearer \xff\xfe", 401),
        ("Bearer " + "x" * 100_000, 401),
    ],
)
def test_a_program_gives_the_token_in_a_header(client_of: MakeClient, given: str, status: int) -> None:
    assert client_of(token=TOKEN).get("/results?q=a", headers={"Authorization": given}).status_code == status


def test_a_token_in_an_address_is_none(client_of: MakeClient) -> None:
    client = client_of(token=TOKEN)
    assert client.get(f"/results?q=a&token={TOKEN}").status_code == 401
    assert TOKEN not in client.get(f"/?q=a&token={TOKEN}").text.replace(f"/?q=a&amp;token={TOKEN}", "")


def test_a_login_sets_a_cookie_that_is_not_the_token_and_returns_to_the_query(client_of: MakeClient) -> None:
    client = client_of(token=TOKEN)
    wrong = client.post("/login", data={"token": "not it", "next": "/?q=a"})
    assert wrong.status_code == 401
    assert "not the token" in wrong.text
    assert "not it" not in wrong.text
    assert "Set-Cookie" not in wrong.headers
    done = client.post("/login", data={"token": f" {TOKEN}\n", "next": "/?q=a+ring&top=3"})
    assert (done.status_code, done.headers["Location"]) == (303, "/?q=a+ring&top=3")
    cookie = done.headers["Set-Cookie"]
    assert TOKEN not in cookie
    assert re.search(r"; HttpOnly; Path=/; SameSite=Strict$", cookie)
    assert "Secure" not in cookie
    assert client.get("/results?q=a").status_code == 200
    over_tls = client.post("/login", data={"token": TOKEN}, base_url="https://localhost")
    assert "Secure;" in over_tls.headers["Set-Cookie"]


@pytest.mark.parametrize(
    "asked", ["//evil.example", "https://evil.example", "/\\evil.example", "/?q=\\", "/?q=a\r\nSet-Cookie: a", "/login", ""]
)
def test_a_login_leads_nowhere_else(client_of: MakeClient, asked: str) -> None:
    done = client_of(token=TOKEN).post("/login", data={"token": TOKEN, "next": asked})
    assert (done.status_code, done.headers["Location"]) == (303, "/")


def test_cookies_of_another_server_or_of_long_ago_are_none(client_of: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client, other = client_of(token=TOKEN), client_of(token=TOKEN)
    for one in (client, other):
        one.post("/login", data={"token": TOKEN})
    cookie = other.get_cookie(COOKIE)
    assert cookie is not None
    for value in (cookie.value, "", "in", "in.a.b", "\x00", "x" * 5000):
        fresh = client.application.test_client(use_cookies=False)
        assert fresh.get("/results?q=a", headers={"Cookie": f"{COOKIE}={value}"}).status_code == 401
    monkeypatch.setattr("search.serve.login.HOURS", -1)
    assert HOURS > 0
    assert client.get("/results?q=a").status_code == 401


def test_tries_to_log_in_are_limited_for_each_address(client_of: MakeClient) -> None:
    client = client_of(token=TOKEN)
    statuses = [client.post("/login", data={"token": f"{i}"}).status_code for i in range(LOGINS_AT_ONCE + 1)]
    assert statuses == [401] * LOGINS_AT_ONCE + [429]
    refused = client.post("/login", data={"token": TOKEN})
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert client.post("/login", data={"token": TOKEN}, environ_base={"REMOTE_ADDR": "192.0.2.1"}).status_code == 303
    # Programs with the token go on.
    assert client.get("/results?q=a", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert client.post("/login", data={"token": "x" * 10_000}, environ_base={"REMOTE_ADDR": "192.0.2.2"}).status_code == 413


def test_a_token_comes_from_the_option_or_the_environment_and_is_never_shown(
    options: ServeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_token(None, {}) is None
    assert find_token(None, {TOKEN_VARIABLE: TOKEN}) == TOKEN
    assert find_token(TOKEN, {TOKEN_VARIABLE: "x" * 20}) == TOKEN
    for bad in ("", "short", "with a space in it, long", "umlaut-äöü-0123456789"):
        with pytest.raises(UserError, match="--token must be at least 16 ASCII characters") as raised:
            serve.main(replace(options, token=bad))
        assert not bad or bad not in str(raised.value)
    monkeypatch.setenv(TOKEN_VARIABLE, "short")
    with pytest.raises(UserError, match=f"{TOKEN_VARIABLE} must be at least"):
        serve.main(replace(options, token=None))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"rate": 0.0}, "--rate 0 must be above 0"),
        ({"rate": float("nan")}, "--rate nan must be above 0"),
        ({"queue": 0}, "--queue 0 must be a number from 1 to 256"),
        ({"queries_at_once": 17}, "--queries-at-once 17 must be a number from 1 to 16"),
        ({"public_host": ("https://search.example",)}, "--public-host https://search.example must be a name"),
        ({"public_host": ("search.example:80",)}, "--public-host search.example:80 must be a name"),
        ({"public_host": ("",)}, "--public-host  must be a name"),
        ({"trusted_proxy": "localhost"}, "--trusted-proxy localhost must be an IP address"),
    ],
)
def test_options_that_cannot_be_right_are_refused_first(options: ServeOptions, change: dict[str, object], line: str) -> None:
    with pytest.raises(UserError, match=re.escape(line)):
        serve.main(replace(options, cache=Path("nowhere"), **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "headers", "refused"),
    [
        ("GET", {}, False),
        ("POST", {}, False),
        ("POST", {"Origin": "http://localhost"}, False),
        ("POST", {"Origin": "http://LOCALHOST", "Sec-Fetch-Site": "same-origin"}, False),
        ("POST", {"Origin": "http://localhost:81"}, True),
        ("POST", {"Origin": "https://evil.example"}, True),
        ("POST", {"Origin": "null"}, True),
        ("POST", {"Origin": "http://["}, True),
        ("POST", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, True),
        ("POST", {"Origin": "http://localhost", "Sec-Fetch-Site": "same-site"}, True),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, False),
        ("GET", {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, False),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, True),
        ("GET", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, True),
        ("GET", {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, False),
    ],
)
def test_what_another_site_sends_is_refused(client_of: MakeClient, method: str, headers: dict[str, str], refused: bool) -> None:
    answer = client_of().open("/results?q=a", method=method, headers=headers)
    # A form brings its query in its body, which is empty here.
    assert answer.status_code == (403 if refused else 200 if method == "GET" else 400)


def test_names_of_a_proxy_are_let_in(client_of: MakeClient) -> None:
    client = client_of(public_hosts=("Search.Example",))
    for host, status in (
        ("search.example", 200),
        ("search.example:443", 200),
        ("SEARCH.example", 200),
        ("other.example", 400),
        ("localhost", 200),
    ):
        assert client.get("/", headers={"Host": host}).status_code == status


def test_a_bucket_lets_through_its_rate_and_after_a_pause_its_burst() -> None:
    now = 0.0
    rates = Rates(2, 4, lambda: now)
    assert [rates.seconds_to_wait("192.0.2.1") for _ in range(6)] == [0, 0, 0, 0, 0.5, 0.5]
    assert rates.seconds_to_wait("192.0.2.2") == 0
    now = 0.25
    assert rates.seconds_to_wait("192.0.2.1") == pytest.approx(0.25)
    now = 0.5
    assert rates.seconds_to_wait("192.0.2.1") == 0
    assert rates.seconds_to_wait("192.0.2.1") > 0
    now = 1000
    assert [rates.seconds_to_wait("192.0.2.1") > 0 for _ in range(5)] == [False] * 4 + [True]


def test_a_network_shares_one_bucket_and_memory_is_bounded() -> None:
    rates = Rates(1, 1, lambda: 0.0)
    assert rates.seconds_to_wait("2001:db8::1") == 0
    assert rates.seconds_to_wait("2001:db8::ffff:2") > 0
    assert rates.seconds_to_wait("2001:db8:0:1::1") == 0
    assert rates.seconds_to_wait("::ffff:192.0.2.1") == 0
    assert rates.seconds_to_wait("192.0.2.1") > 0
    for number in range(MOST_ADDRESSES + 10):
        rates.seconds_to_wait(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(rates._left) == MOST_ADDRESSES


def test_who_asks_too_often_is_told_when_to_come_back(client_of: MakeClient) -> None:
    client = client_of(rate=0.2)
    assert [client.get("/search.js", buffered=True).status_code for _ in range(3)] == [200, 200, 429]
    refused = client.get("/?q=a")
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 5
    assert client.get("/thumbnail/0/0").status_code != 429
    assert client.get("/search.js", buffered=True, environ_base={"REMOTE_ADDR": "192.0.2.9"}).status_code == 200


@pytest.mark.long
@pytest.mark.parametrize("trusted", [None, "127.0.0.1"])
def test_only_a_trusted_proxy_says_where_a_request_came_from(options: ServeOptions, trusted: str | None) -> None:
    """Over a socket: the tries to log in are counted by address, and the cookie is for TLS alone."""
    with serve.serving(replace(options, trusted_proxy=trusted, public_host=("search.example",))) as url:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        statuses = []
        for i in range(LOGINS_AT_ONCE + 2):
            headers = {"X-Forwarded-For": f"192.0.2.{i}", "X-Forwarded-Proto": "https", "Host": "search.example"}
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            connection.request("POST", "/login", urlencode({"token": TOKEN if i == 0 else "no"}), headers)
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
            if i == 0:
                assert ("Secure" in (answer.getheader("Set-Cookie") or "")) == (trusted is not None)
        connection.close()
    expected = [303, *[401] * (LOGINS_AT_ONCE + 1)]
    assert statuses == (expected if trusted else [*expected[:LOGINS_AT_ONCE], 429, 429])


@pytest.mark.long
def test_in_a_browser_a_person_logs_in_once(options: ServeOptions, open_page: OpenPage) -> None:
    with serve.serving(options) as url:
        page = open_page(f"{url}login")
        page.get_by_label("Token of this server").fill(TOKEN)
        page.get_by_role("button", name="Log in").click()
        page.get_by_label("What happens in the video?").fill("a ring")
        page.keyboard.press("Enter")
        expect(page.locator(".result").first).to_be_visible()
        assert page.evaluate("document.cookie") == ""
        page.close()
