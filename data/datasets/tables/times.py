"""Parse times in a video as people write them."""

import math
import re

from data.base.errors import UserError

SECONDS = re.compile(r"\+?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
CLOCK = re.compile(r"(?:(?P<hours>\d+):(?P<minutes>[0-5]?\d)|(?P<only>\d+)):(?P<seconds>[0-5]?\d(?:\.\d*)?)")
"""hh:mm:ss.fff, or mm:ss.fff with any number of minutes."""
COMMA = re.compile(r"[\d:]*\d,\d+")
THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?")
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "\\n"})
"""How R, pandas and SQL write a missing number, in lower case."""
MISSING_TEXT = MISSING | {"#n/a", "<na>"}
"""How these and spreadsheets write a missing text, in lower case."""
LONGEST_S = 1e9
MAX_LENGTH = 40


def seconds_of(text: str) -> float:
    """Parse seconds, `mm:ss` or `hh:mm:ss.fff`; NaN for a missing value.

    >>> seconds_of("90.5"), seconds_of("1:30"), seconds_of("0:01:30.500")
    (90.5, 90.0, 90.5)

    Raises UserError, without a place, for anything else. A decimal comma is refused, because it could also separate two numbers.
    """
    text = text.strip()
    if text.lower() in MISSING:
        return math.nan
    if len(text) <= MAX_LENGTH and text.isascii():
        if SECONDS.fullmatch(text) and float(text) <= LONGEST_S:
            return float(text)
        found = CLOCK.fullmatch(text)
        if found:
            total = 3600 * int(found["hours"] or 0) + 60 * int(found["minutes"] or found["only"]) + float(found["seconds"])
            if total <= LONGEST_S:
                return total
        if THOUSANDS.fullmatch(text):
            plain = text.replace(",", "")
            decimal = text.replace(",", ".")
            raise UserError(f"has a comma: write {plain}{f', or {decimal} if the comma is a decimal comma' * (decimal.count('.') == 1)}")
        if COMMA.fullmatch(text):
            raise UserError(f"has a decimal comma: write {text.replace(',', '.')}")
    raise UserError("not a time: write seconds (90.5), mm:ss (1:30) or hh:mm:ss.fff (0:01:30.500)")
