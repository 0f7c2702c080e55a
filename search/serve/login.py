"""The token that lets a program or a person in, and the form where a person gives it."""

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from math import ceil

import flask
from itsdangerous import BadSignature, TimestampSigner
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

from data.base.errors import UserError
from search.pages.page import environment
from search.serve.rates import Rates

TOKEN_VARIABLE = "GLCCL_SEARCH_TOKEN"
FEWEST_CHARACTERS = 16
"""Of a token. Guesses are limited by their rate, and not by their number."""
COOKIE = "search-login"
HOURS = 12
"""How long a login lasts. It also ends when the server does."""
LOGINS_A_SECOND, LOGINS_AT_ONCE = 1 / 6, 5
"""Tokens that an address may try."""
MAX_FORM = 4096
"""Bytes of a login."""
OPEN_PATHS = frozenset({"/login", "/search.css", "/api/health"})
"""What everybody may read, token or not."""


def find_token(given: str | None, variables: Mapping[str, str] = os.environ) -> str | None:
    """The token of --token, or of the environment. Raises UserError, which does not show it, if it is easy to guess."""
    source, token = ("--token", given) if given is not None else (TOKEN_VARIABLE, variables.get(TOKEN_VARIABLE))
    if token is None:
        return None
    if len(token) < FEWEST_CHARACTERS or not (token.isascii() and token.isprintable()) or " " in token:
        raise UserError(
            f"{source} must be at least {FEWEST_CHARACTERS} ASCII characters without spaces: make one with "
            '`python -c "import secrets; print(secrets.token_urlsafe())"`'
        )
    return token


class Login:
    """Asks for a token: of programs as `Authorization: Bearer TOKEN`, of people in a form, which sets a cookie.

    The cookie is signed with a key that this process alone knows, and does not contain the token.
    """

    def __init__(self, token: str) -> None:
        self._token = _digest(token)
        self._signer = TimestampSigner(secrets.token_bytes(32), digest_method=hashlib.sha256)
        self._tries = Rates(LOGINS_A_SECOND, LOGINS_AT_ONCE)
        self._template = environment().get_template("login.html")

    def install(self, app: flask.Flask) -> None:
        """Ask for the token before every request, but for OPEN_PATHS."""
        app.before_request(self._require)
        app.add_url_rule("/login", "login", self.login, methods=["GET", "POST"])

    def login(self) -> flask.typing.ResponseReturnValue:
        """The form, and what it sends."""
        if flask.request.method != "POST":
            return self._form(200)
        flask.request.max_content_length = MAX_FORM
        wait_s = self._tries.seconds_to_wait(flask.request.remote_addr or "")
        if wait_s:
            return self._form(429, "Too many tries: wait a minute.", {"Retry-After": str(ceil(wait_s))})
        if not self._is_token(flask.request.form.get("token", "").strip()):
            return self._form(401, "This is not the token of this server.")
        response = flask.redirect(_own_path(flask.request.form.get("next", "")), 303)
        secure, signed = flask.request.is_secure, self._signer.sign("in").decode()
        response.set_cookie(COOKIE, signed, max_age=HOURS * 3600, secure=secure, httponly=True, samesite="Strict")
        return response

    def _require(self) -> flask.typing.ResponseReturnValue | None:
        if flask.request.path in OPEN_PATHS or self._has_token() or self._has_cookie():
            return None
        if flask.request.path == "/" and flask.request.method == "GET":
            return self._form(401)
        raise Unauthorized("give the token of this server as `Authorization: Bearer TOKEN`", www_authenticate=WWWAuthenticate("bearer"))

    def _has_token(self) -> bool:
        scheme, _, given = flask.request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self._is_token(given.strip())

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(_digest(given), self._token)

    def _has_cookie(self) -> bool:
        try:
            self._signer.unsign(flask.request.cookies.get(COOKIE, ""), max_age=HOURS * 3600)
        except BadSignature:
            return False
        return True

    def _form(self, status: int, error: str = "", headers: Mapping[str, str] | None = None) -> flask.Response:
        asked = flask.request.form.get("next", "") if flask.request.path == "/login" else flask.request.full_path.removesuffix("?")
        content = self._template.render(error=error, next=_own_path(asked))
        return flask.Response(content, status, {**(headers or {}), "Cache-Control": "no-store"}, mimetype="text/html")


def _digest(token: str) -> bytes:
    """Digests compare in constant time whatever the lengths of what they are made from."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _own_path(asked: str) -> str:
    """The page with a query to return to after a login; the page alone if the path is another, such as one that leads elsewhere."""
    return asked if asked.startswith("/?") and "\\" not in asked and asked.isprintable() else "/"
