"""Signals at the worst places."""

import subprocess
import sys
import textwrap

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
