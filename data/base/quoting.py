"""Escape values and file names for messages."""

import os
from pathlib import Path

JOINERS = "\u200c\u200d"
"""Part of words in Persian and in scripts of India, and of emoji such as a family."""


def quote(value: object) -> str:
    """A value from a file for an error line: unprintable characters escaped, and truncated."""
    shown = repr(value if not isinstance(value, str) else value[:100])
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def path_text(path: Path | str) -> str:
    """A file name as text; bytes that are not UTF-8 become \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def visible(text: object) -> str:
    """str(text) with unprintable characters escaped, except for JOINERS: one line that cannot control the terminal."""
    return "".join(character if character.isprintable() or character in JOINERS else ascii(character)[1:-1] for character in str(text))
