"""Replies: records for programs, and errors for whoever asked."""

import json
from collections.abc import Sequence
from typing import Any

import flask

from data.base.errors import Unavailable, UserError

PREFIX = "/api/"


def reply(record: dict[str, Any]) -> flask.Response:
    """A record as JSON, in its own order, which flask.jsonify would sort."""
    return flask.Response(json.dumps(record, allow_nan=False), mimetype="application/json")


def refusal(line: str, status: int, headers: Sequence[tuple[str, str]] = ()) -> flask.Response:
    """An error of the current request: JSON below PREFIX, a line of text elsewhere."""
    if flask.request.path.startswith(PREFIX):
        response = reply({"error": " ".join(line.split())})
    else:
        response = flask.Response(f"{line}\n", mimetype="text/plain")
    response.status_code = status
    response.headers.extend(headers)
    return response


def refused(error: UserError, status: int = 400) -> flask.Response:
    """The answer to a request that is wrong, or that cannot be answered now."""
    return refusal(str(error), 503 if isinstance(error, Unavailable) else status)
