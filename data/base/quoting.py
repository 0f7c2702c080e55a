"""Values and file names as a message can show them."""

import os
from pathlib import Path


def quote(value: object) -> str:
    """A value from a file as an error line can show it: escaped, and cut short."""
    shown = ascii(value if not isinstance(value, str) else value[:100])
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def path_text(path: Path | str) -> str:
    """A file name as text: bytes that are none are written \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def visible(text: object) -> str:
    """A text, or what is made into one, as a terminal can show it in one line: what would steer the terminal is escaped."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in str(text))
