"""Who may ask, and how often: host names, other sites, rates, and the token.

Any other page in the user's browser can send requests to a local server, and beyond it anybody on the network can. So foreign host names
are refused (DNS rebinding), and so is what another site sends.
"""

import ipaddress
import math
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

import flask
from werkzeug.exceptions import TooManyRequests

from data.base.errors import UserError
from search.serve.login import OPEN_PATHS, Login, find_token
from search.serve.options import ServeOptions
from search.serve.rates import Rates

BURST_S = 10
"""A client may ask as often at once as it may in this many seconds."""
MOST_PARTS = 64
"""Fields of a form: those of a query, and some that repeat."""
THUMBNAILS = ("/thumbnail/", "/api/thumbnails/")
READING = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Access:
    """token: what everybody has to know; None for nothing.
    rate: requests a second of each client address; None for any number.
    public_hosts: names of this server besides its own, such as that of a proxy.
    """

    token: str | None = None
    rate: float | None = None
    public_hosts: tuple[str, ...] = ()

    def install(self, app: flask.Flask, host: str, largest_body: int) -> None:
        """Check every request to this application. `host`: the name of the server; `largest_body`: bytes of a request's body."""
        names = {"localhost", socket.gethostname().lower(), host.lower(), *map(str.lower, self.public_hosts)}
        app.config |= {"MAX_CONTENT_LENGTH": largest_body, "MAX_FORM_PARTS": MOST_PARTS}

        @app.before_request
        def refuse_foreign_names() -> None:
            if not _is_own(flask.request.host, names):
                flask.abort(400, "open this page at the address that the server printed; other host names are refused")

        app.before_request(_refuse_other_sites)
        if self.rate is not None:
            app.before_request(_Limited(self.rate).refuse)
        if self.token is not None:
            Login(self.token).install(app)


def check_access(options: ServeOptions) -> None:
    """Raise UserError for options that cannot be right."""
    find_token(options.token)
    if options.rate is not None and not 0 < options.rate < math.inf:
        raise UserError(f"--rate {options.rate:g} must be above 0")
    for name in options.public_host:
        if not _is_name(name):
            raise UserError(f"--public-host {name} must be a name without scheme, port and path, such as search.example.org")
    if options.trusted_proxy is not None and not _is_address(options.trusted_proxy):
        raise UserError(f"--trusted-proxy {options.trusted_proxy} must be an IP address, such as 127.0.0.1")


class _Limited:
    """Refuses an address that asks too often. Thumbnails do not count: a page has a hundred."""

    def __init__(self, rate: float) -> None:
        self._rates = Rates(rate, max(1.0, rate * BURST_S))

    def refuse(self) -> None:
        """Raise TooManyRequests."""
        if flask.request.path in OPEN_PATHS or flask.request.path.startswith(THUMBNAILS):
            return
        wait_s = self._rates.seconds_to_wait(flask.request.remote_addr or "")
        if wait_s:
            raise TooManyRequests("ask again after a pause", retry_after=math.ceil(wait_s))


def _refuse_other_sites() -> None:
    """Abort if a page of another site made the browser send this: anything but a link that the user followed.

    Browsers say so in Sec-Fetch-Site, to localhost or over TLS, and in the Origin of what is not merely read. Programs send neither.
    """
    headers = flask.request.headers
    site, followed = headers.get("Sec-Fetch-Site", "none"), headers.get("Sec-Fetch-Mode") == "navigate"
    reads = flask.request.method in READING
    from_elsewhere = site not in ("same-origin", "none") and not (reads and followed)
    origin = headers.get("Origin")
    if from_elsewhere or (not reads and origin is not None and not _is_origin(origin, flask.request.host)):
        flask.abort(403, "another site sent this request; send it from this page, or from a program")


def _is_origin(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def _is_own(host: str, names: set[str]) -> bool:
    """Whether a Host header names this machine, by one of its names or by an IP address, which DNS cannot redirect."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name in names or _is_address(name)


def _is_name(name: str) -> bool:
    try:
        return name != "" and name.isascii() and urlsplit(f"//{name}").hostname == name.lower()
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
