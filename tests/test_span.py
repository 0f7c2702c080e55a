"""The part of a file in each of the three forms that it has on disk."""

import math

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from data.span import Span, cells_of

seconds = st.floats(0, 1e6) | st.none()


@given(spans=st.lists(st.tuples(seconds, seconds), min_size=1, max_size=5))
def test_a_table_gives_back_what_it_was_given(spans: list[tuple[float | None, float | None]]) -> None:
    table = pd.DataFrame(cells_of(Span(*span) for span in spans))
    assert table.dtypes.tolist() == [np.float64, np.float64]
    read = [Span.of_cells(start, end) for start, end in zip(table["start"].tolist(), table["end"].tolist(), strict=True)]
    assert [(span.start, span.end) for span in read] == spans


@given(start=seconds, end=seconds)
def test_a_csv_file_gives_back_what_it_was_given(start: float | None, end: float | None) -> None:
    texts = ["" if value is None else str(value) for value in (start, end)]
    assert Span.of_texts(*texts) == Span(start, end)


def test_what_a_span_covers() -> None:
    cases = [
        # span, bounds in a cache, length of it in a file of 10 s, moments at 2 frames a second
        (Span(), (0.0, math.inf), 10.0, None),
        (Span(0.0), (0.0, math.inf), 10.0, None),
        (Span(2.5), (2.5, math.inf), 7.5, None),
        (Span(None, 4.0), (0.0, 4.0), 4.0, 8),
        (Span(2.5, 32.0), (2.5, 32.0), 7.5, 59),
        (Span(1.0, 1.3), (1.0, 1.3), 0.3, 1),
    ]
    for span, bounds, length, ticks in cases:
        assert span.bounds == bounds
        found = span.length(10.0)
        assert found is not None
        assert math.isclose(found, length)
        assert span.length(None) is None
        assert span.ticks(2.0) == ticks
    assert [span.is_whole for span, *_ in cases] == [True, True, False, False, False, False]
    # 0.7 seconds at 10 frames a second are 7 moments, though 0.7 * 10 is 7.000000000000001 or so.
    assert Span(0.1, 0.8).ticks(10.0) == 7
