"""Signals at the worst places."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.conftest import ROOT

DROPPED = """
    import os, signal, time, weakref
    from dataclasses import dataclass
    from data.cli.command import run_command

    @dataclass(frozen=True)
    class Options:
        pass

    class Referred:
        pass

    def work(_options):
        referred = Referred()
        reference = weakref.ref(referred, lambda _gone: os.kill(os.getpid(), signal.{signal}))
        del referred  # the signal falls into the callback, where Python drops what it raises
        time.sleep(60)

    run_command(Options, work, prog="test")
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_that_python_drops_ends_the_program_all_the_same(name: str) -> None:
    program = textwrap.dedent(DROPPED).format(signal=name)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stderr) == (130, "interrupted; run the same command again to go on\n")


CHILD = """
    import multiprocessing, os, signal, sys, threading, time
    from data.base import children

    def work(connection):
        with children.until_terminated():
            # Python waits for this thread when the work has ended.
            threading.Thread(target=time.sleep, args=(1,)).start()
            connection.send("at work")
            {work}
        connection.send("done")

    if __name__ == "__main__":
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(theirs,))
        children.start(process)
        os.kill(process.pid, signal.SIGINT)  # while it starts
        assert ours.recv() == "at work"
        os.kill(process.pid, signal.SIGINT)
        {then}
        process.join()
        print(process.exitcode)
"""


@pytest.mark.parametrize(
    ("work", "then"),
    [
        ("time.sleep(60)", "process.terminate(); assert ours.recv() == 'done'; process.terminate()"),
        ("pass", "assert ours.recv() == 'done'; process.terminate()"),
    ],
    ids=["terminated at work and after", "terminated after its work"],
)
def test_a_child_of_the_program_ends_without_a_word(tmp_path: Path, work: str, then: str) -> None:
    # The first child of an interpreter: Python's resource tracker starts before it, and used to clear the mask that it inherits.
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(CHILD).format(work=work, then=then))
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, check=False, timeout=50, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
