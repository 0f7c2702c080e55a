"""Reads the query of a request: from its address, from a JSON object, or from a form with a picture.

What a form of the page may contain, blank or unknown fields, is refused here: a program that sends them has a mistake.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import flask
from werkzeug.datastructures import FileStorage

from data.base.errors import UserError
from data.base.quoting import quote
from search.query.parse import FIELDS, NUMBERS, REPEATED, parse_query
from search.query.pictures import MAX_BYTES, decode_picture
from search.query.query import Picture, Query, Shown
from search.retrieval.queries import MAX_QUERY, clean_text

MAX_FIELDS = 2**18
"""Bytes of a JSON object. The server limits what a form with a picture may have."""
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
"""A number of JSON."""
_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")


def read_query(request: flask.Request, shown: Shown) -> Query:
    """The query of a GET or POST of `/api/search`. `shown` has the defaults of what is shown.

    Raises UserError for a wrong field, and the HTTP errors 413 and 415 for a body that is too large, or of another type.
    """
    picture = None
    if request.method != "POST":
        given = _texts(request.args.to_dict(flat=False))
    elif request.mimetype == "application/json":
        request.max_content_length = MAX_FIELDS
        given = _values(_json_object(request.get_data()))
    elif request.mimetype == "multipart/form-data":
        picture = _picture(request.files.to_dict(flat=False))
        given = _texts(request.form.to_dict(flat=False))
    else:
        flask.abort(415, "send application/json, or multipart/form-data with a picture in the field image")
    return parse_query(given, str, picture, shown)


def read_numbers(request: flask.Request, defaults: Mapping[str, int]) -> dict[str, int]:
    """The whole numbers in an address that has no other fields. Raises UserError."""
    given = _texts(request.args.to_dict(flat=False), tuple(defaults))
    # Any query has these bounds.
    shown = parse_query({"q": ["-"], **given}, str).shown
    return {field: getattr(shown, field) if field in given else default for field, default in defaults.items()}


def _texts(given: Mapping[str, Sequence[str]], fields: Sequence[str] = FIELDS) -> dict[str, list[str]]:
    """The fields of an address or of a form."""
    for field, values in given.items():
        _require_known(field, fields)
        if len(values) > 1 and field not in REPEATED:
            raise UserError(f"{field} has {len(values):,} values: give one")
        for value in values:
            _require_text(field, value)
            if field in NUMBERS and not (_WHOLE if NUMBERS[field].whole else _NUMBER).fullmatch(value):
                _refuse_number(field, value)
    return {field: list(values) for field, values in given.items()}


def _values(given: Mapping[str, Any]) -> dict[str, list[str]]:
    """The fields of a JSON object, as text."""
    found = {}
    for field, value in given.items():
        _require_known(field, FIELDS)
        if field in NUMBERS:
            found[field] = [_number_text(field, value)]
        elif field in REPEATED:
            if not isinstance(value, list):
                raise UserError(f"{field} {quote(value)} must be a list of texts")
            found[field] = [_require_text(field, one) for one in value]
        else:
            found[field] = [_require_text(field, value)]
    return found


def _require_known(field: str, fields: Sequence[str]) -> None:
    if field not in fields:
        raise UserError(f"there is no field {quote(field)}: use {', '.join(fields)}")


def _require_text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise UserError(f"{field} {quote(value)} must be a text")
    if len(value) > MAX_QUERY:
        raise UserError(f"{field} has {len(value):,} characters: shorten it to {MAX_QUERY:,} or fewer")
    if not value.strip():
        raise UserError(f"{field} is empty: leave it out, or give it a value")
    # JSON can name half of a character, which no id has.
    return value.encode("utf-8", "replace").decode("utf-8") if field == "like" else value


def _number_text(field: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse_number(field, value)
    # In JSON, 10.0 is a whole number.
    if isinstance(value, float) and value.is_integer() and NUMBERS[field].whole:
        value = int(value)
    return repr(value)


def _refuse_number(field: str, value: object) -> NoReturn:
    raise UserError(f"{field} {quote(value)} must be {'a whole number' if NUMBERS[field].whole else 'a number'}")


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError('the body is no JSON: send an object of fields, such as {"q": "a red ring"}') from error
    if not isinstance(found, dict):
        raise UserError('the body must be a JSON object of fields, such as {"q": "a red ring"}')
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, in which Python would let the last of equal names count."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise UserError(f"{quote(twice)} is there more than once: give each field once")
    return found


def _refuse_constant(name: str) -> NoReturn:
    """Python reads NaN and Infinity as well, which are no JSON."""
    raise ValueError(name)


def _picture(files: Mapping[str, Sequence[FileStorage]]) -> Picture:
    """The picture of a form."""
    for field, uploads in files.items():
        _require_known(field, ("image",))
        if len(uploads) > 1:
            raise UserError(f"{field} has {len(uploads):,} pictures: give one")
    if "image" not in files:
        raise UserError("the form has no picture in the field image: add one, or send the fields as application/json")
    (upload,) = files["image"]
    content = upload.stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        flask.abort(413, f"the picture has more than {MAX_BYTES // 2**20} MiB: make it smaller")
    return decode_picture(content, clean_text(upload.filename or "image"), "image")
