"""The kind of a caption: a category that the annotations may give each one, such as "several actions". An empty text is no kind.

A table of captions has the column `kind` only if a caption has one.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

import pandas as pd

from data.base.errors import UserError
from data.base.quoting import quote
from data.datasets.files import COLLECTION, NO_TEXT
from data.datasets.tables.cells import scalar_text
from data.datasets.tables.times import MISSING_TEXT

MAX_KIND = 100
"""Most characters of a kind; a longer text is a caption or a remark."""
INVISIBLE = re.compile("[\u200b\u2060\ufeff]")
"""Zero-width space, word joiner and byte order mark, which copied cells hold. Joiners, which shape letters and emoji, stay."""
SHOWN = 8
"""Kinds that a note names."""


def check_kind(value: object, place: str) -> str:
    """Return the kind, with single spaces between its words, without INVISIBLE characters, in Unicode's form NFC; "" for None and NaN, and
    for words that stand for them (`MISSING_TEXT`). A number or a boolean is the text that a typed table has for it: "3" for 3.

    Raises UserError if it is anything else than these or text, is longer than MAX_KIND, or matches NO_TEXT or COLLECTION.
    """
    if value is not None and not isinstance(value, str | int | float):
        raise UserError(f"{place}: the kind {quote(value)} is not text: write one category in quotes, or leave it out")
    text = value if isinstance(value, str) else scalar_text(value)
    if NO_TEXT.search(text):
        raise UserError(f"{place}: the kind {quote(text)} holds a zero byte or half a character")
    if COLLECTION.fullmatch(text):
        raise UserError(f"{place}: the kind {quote(text)} is a list or an object: write one category, or leave it out")
    # Otherwise kinds that look alike would be two.
    kind = unicodedata.normalize("NFC", " ".join(INVISIBLE.sub("", text).split()))
    if kind.lower() in MISSING_TEXT:
        return ""
    if len(kind) > MAX_KIND:
        raise UserError(
            f"{place}: a kind of {len(kind):,} characters, {quote(kind)}, must be at most {MAX_KIND}: a kind is a category that many "
            "captions share"
        )
    return kind


def agreed(kinds: Iterable[str]) -> str:
    """The kind of captions that are joined into one: that of all of them, or none.

    >>> agreed(["one", "one"]), agreed(["one", "several"]), agreed(["one", ""])
    ('one', '', '')
    """
    distinct = {*kinds}
    return distinct.pop() if len(distinct) == 1 else ""


def without_repeats(rows: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The rows without those that differ at most in kind from one before; and how many were given different kinds, and so have none."""
    distinct = rows.drop_duplicates()
    others = [column for column in rows if column != "kind"]
    disputed = distinct.duplicated(others, keep=False)
    unique = distinct.drop_duplicates(others)
    lost = disputed[unique.index]
    return (unique.assign(kind=unique["kind"].mask(lost, "")), int(lost.sum())) if lost.any() else (unique, 0)


def with_kinds(captions: pd.DataFrame) -> pd.DataFrame:
    """The captions with a column of kinds, whether or not they have one."""
    return captions if "kind" in captions else captions.assign(kind="")


def if_any(captions: pd.DataFrame) -> pd.DataFrame:
    """The captions, without the column of kinds if it is empty."""
    return captions.drop(columns="kind") if "kind" in captions and not (captions["kind"] != "").any() else captions


def note_of_kinds(captions: pd.DataFrame) -> tuple[str, ...]:
    """A line about the kinds of the captions, if any, the most frequent first."""
    if "kind" not in captions:
        return ()
    counts = Counter(captions["kind"])
    none = counts.pop("", 0)
    named = [f"{quote(kind)} ({count:,})" for kind, count in counts.most_common(SHOWN)]
    more = [f"{len(counts) - SHOWN:,} more"] * (len(counts) > SHOWN)
    without = [f"no kind ({none:,})"] * (none > 0)
    return (f"kinds of captions: {', '.join([*named, *more, *without])}",)
