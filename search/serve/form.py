"""Reads what a browser sends: the fields of the page's form, and its picture."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

from flask import Request
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import RequestEntityTooLarge

from data.base.errors import UserError
from search.pages.page import shortened
from search.query.parse import FIELDS, MOST_VALUES
from search.query.pictures import MAX_BYTES, decode_picture
from search.query.query import Picture
from search.retrieval.queries import MAX_QUERY, clean_text

MAX_FIELDS = 2**18
"""Bytes of a form beside its picture: more than the longest query takes."""
LABELS = {
    "q": "What happens in the video?",
    "like": "More like",
    "not": "But not",
    "weight": "Picture against words",
    "path": "Folder or name",
    "min_length": "Shortest (seconds)",
    "max_length": "Longest (seconds)",
    "since": "Changed since",
    "until": "Changed until",
    "where": "Table condition",
    "top": "Results a page",
    "skip": "Results to skip",
    "threshold": "Lowest score",
    "moments": "Moments a video",
    "apart": "Seconds between moments",
    "fold": "Fold near-duplicates",
}
"""What the page calls each field."""
CHIPS = {
    "not": "but not {}",
    "path": "in {}",
    "min_length": "at least {} s long",
    "max_length": "at most {} s long",
    "since": "changed since {}",
    "until": "changed until {}",
    "where": "{}",
    "threshold": "score of at least {}",
}
"""The fields that narrow a query, and how the page names a value of each."""
REPEATED = ("path", "where")
"""The fields of which every value counts."""


class TooLong(UserError):
    """A field that is longer, or has more values, than any query may have."""


class Chip(NamedTuple):
    """What narrows the query, for people, and its place in the form."""

    text: str
    field: str
    value: str


@dataclass(frozen=True)
class Form:
    """What was asked for.

    fields: the values of each field, none of them empty. asked: whether any field was sent, even an empty one. captions: id of the video
    whose captions are wanted. lost: name of a picture that the browser named without sending it.
    """

    fields: Mapping[str, Sequence[str]]
    asked: bool
    captions: str = ""
    lost: str = ""

    def value(self, field: str) -> str:
        """The last value of a field, or an empty string."""
        return self.fields.get(field, ("",))[-1]

    @property
    def chips(self) -> Iterator[Chip]:
        """What narrows the query."""
        for field, text in CHIPS.items():
            # The last value counts of a field that cannot repeat.
            for value in self.fields.get(field, ())[0 if field in REPEATED else -1 :]:
                yield Chip(text.format(value), field, value)

    def require_short(self) -> None:
        """Raise TooLong for more values, or a longer one, than any query may have."""
        for field, values in self.fields.items():
            if len(values) > MOST_VALUES:
                raise TooLong(f"{label(field)} has {len(values):,} values: give {MOST_VALUES} or fewer")
            longest = max(map(len, values))
            if longest > MAX_QUERY:
                what = "the query" if field == "q" else label(field)
                raise TooLong(f"{what} has {longest:,} characters: shorten it to {MAX_QUERY:,} or fewer")


def label(field: str) -> str:
    """What an error calls a field."""
    return f"“{LABELS[field]}”"


def read_form(request: Request) -> Form:
    """The fields of the form in an address or in the body of a POST. Raises TooLong."""
    # Set before anything is read: what exceeds it is refused unread.
    request.max_content_length, request.max_form_memory_size = MAX_BYTES + MAX_FIELDS, MAX_FIELDS
    try:
        sent = request.form if request.method == "POST" else request.args
    except RequestEntityTooLarge as error:
        most = f"a picture may have {MAX_BYTES // 2**20} MiB, and words {MAX_QUERY:,} characters"
        raise TooLong(f"this search is too large: make it smaller; {most}") from error
    upload = _upload(request)
    # An id, or the name of a folder, may have spaces around it.
    given = {field: sent.getlist(field) if field in ("like", "path") else map(clean_text, sent.getlist(field)) for field in FIELDS}
    fields = {field: values for field in FIELDS if (values := [value for value in given[field] if value.strip()])}
    if "q" not in fields or not ("like" in fields or upload):
        # The page sends the weight that it shows; what it weighed may have been taken out since.
        fields.pop("weight", None)
    asked = request.method == "POST" or any(field in sent for field in FIELDS)
    return Form(fields, asked, sent.get("captions", ""), shortened(sent.get("image", "")))


def read_upload(request: Request) -> Picture | None:
    """The picture of a POST, if it has one. Raises UserError if it is none or too large."""
    upload = _upload(request)
    if upload is None:
        return None
    with closing(upload):  # a large one lies in a file
        content = upload.stream.read(MAX_BYTES + 1)
    return decode_picture(content, shortened(clean_text(upload.filename or "")), "this search")


def _upload(request: Request) -> FileStorage | None:
    """The file of the form, if one was chosen."""
    upload = request.files.get("image") if request.method == "POST" else None
    return upload if upload is not None and upload.filename else None
