"""Steps for tests of `benchmarks.gpu`: one for each way in which a step can end."""

import os
import signal
import subprocess
from pathlib import Path

from benchmarks.gpu.place import Outcome, Place

CHILD = Path("child")
"""The file in the folder GPU_STEPS_FOLDER with the process id of the child of `hang`."""


def hold(place: Place) -> Outcome:
    """Everything holds."""
    return Outcome({"folder is empty": not [*place.folder.iterdir()], "infinite": float("inf")}, {"one is one": True}, ["A remark."])


def refute(place: Place) -> Outcome:
    """One claim does not hold."""
    return Outcome({"table": {"first": {"a": 1, "b": 2.5}, "second": {"a": 3}}}, {"one is one": True, "one is two": False})


def fail(place: Place) -> Outcome:
    """A bug."""
    raise KeyError("a bug")


def abort(place: Place) -> Outcome:
    """A crash in compiled code."""
    os.abort()


def leave(place: Place) -> Outcome:
    """A library that ends the process."""
    os._exit(0)


def hang(place: Place) -> Outcome:
    """Never ends, nor does its child."""
    child = subprocess.Popen(["sleep", "1000"])
    (Path(os.environ["GPU_STEPS_FOLDER"]) / CHILD).write_text(str(child.pid))
    signal.pause()
    raise AssertionError
