"""What long work says on a terminal and in a log: rates of work that was done now, and none of work that took no time."""

import re
import sys

import pytest

from data.base.progress import Progress
from tests.conftest import ROOT
from tests.terminal import on_a_terminal

SCRIPT = """
import time
import data.base.progress
from data.base.progress import Progress, say

def work(steps, seconds, **given):
    with Progress(given.pop("what"), steps + given.get("initial", 0), "videos", **given) as progress:
        for _ in range(steps):
            time.sleep(seconds)
            progress.update(note="a note")

# However slow the machine is, this took no time.
data.base.progress.SHORTEST_S = 1000.0
work(1000, 0, what="at once")
data.base.progress.SHORTEST_S = 0.1
with Progress("shown late", 5, "videos", delay=0.1) as progress:
    say("a line: said before it")
    time.sleep(0.1)
    progress.update(3)
    say("a line: said above it")
    time.sleep(0.1)
    progress.update(2)
work(0, 0, what="nothing")
work(0, 0, what="all there", initial=7)
work(4, 0.06, what="resumed", initial=10_000_000)
work(3, 0.05, what="patient", delay=60)
work(3, 0.05, what="impatient", delay=0.1)
work(3, 0.05, what="quiet", quiet=True)
"""


def last_lines(shown: str) -> dict[str, str]:
    """The last line of each work."""
    return {line.split(":")[0]: line for line in shown.splitlines()}


def check(lines: dict[str, str]) -> None:
    assert lines.keys() == {"at once", "all there", "resumed", "impatient", "shown late", "a line"}
    assert lines["a line"] == "a line: said above it"
    assert "1000/1000 [00:00, a note]" in lines["at once"]
    assert "7/7 [00:00]" in lines["all there"]
    for name, total in (("resumed", 10_000_004), ("impatient", 3), ("shown late", 5)):
        found = re.search(rf"{total}/{total} \[00:00<00:00, +([\d.]+) ?videos/s(, a note)?\]", lines[name])
        assert found is not None, lines[name]
        # No more than its sleeps allow.
        assert float(found[1]) <= 25


@pytest.mark.parametrize("columns", [200, 0])
def test_a_terminal_shows_rates_of_what_was_done_now(columns: int) -> None:
    """One that does not say how wide it is, too."""
    status, _, shown = on_a_terminal([sys.executable, "-c", SCRIPT], ROOT, columns=columns)
    assert status == 0
    check(last_lines(shown))
    rates = [float(rate) for rate in re.findall(r"([\d.]+) ?videos/s", shown)]
    assert rates
    assert max(rates) <= 35


def test_a_log_shows_the_same_in_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    exec(SCRIPT, {})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 + 1 + 2
    check(last_lines("\n".join(lines)))


def test_work_that_fails_says_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with Progress("work", 3, "videos") as progress:
            progress.update()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert re.fullmatch(r"work:  33% 1/3 \[00:00\]\n", capsys.readouterr().err)
