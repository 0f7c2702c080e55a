"""Waiting for what another process does, by looking for it again and again."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], what: str, limit_s: float = 60.0) -> None:
    """Return as soon as `condition` holds; fails with `what` was awaited where it does not within `limit_s` seconds."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}"
        time.sleep(0.01)
