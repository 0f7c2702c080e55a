"""Which of many parameters `make test` tries, and which are left to `make test-long`."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def long_but(quick: Collection[Any], values: Iterable[Any]) -> list[Any]:
    """The values, of which all but the quick ones are marked long. A tuple has the values of several parameters."""
    every = list(values)
    assert all(value in every for value in quick), quick
    marks = [() if value in quick else pytest.mark.long for value in every]
    return [pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=mark) for value, mark in zip(every, marks, strict=True)]
