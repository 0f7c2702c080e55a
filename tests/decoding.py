"""Both ways to decode, as fixtures, and a decoder that hangs."""

import shlex
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import imageio_ffmpeg
import pytest

from extract.decode.pyav import PyavProcesses
from extract.decode.sample import Sampling
from extract.ffmpeg.run import Processes

MakeSampling = Callable[..., Sampling]


@pytest.fixture(scope="module")
def pyav() -> Iterator[PyavProcesses]:
    pytest.importorskip("av", reason="PyAV is not installed: requirements-pyav.txt")
    processes = PyavProcesses(Processes())
    yield processes
    processes.close()


@pytest.fixture(params=["ffmpeg", "pyav"])
def sampling(request: pytest.FixtureRequest) -> MakeSampling:
    """What is asked of either decoder."""
    return Sampling if request.param == "ffmpeg" else partial(Sampling, pyav=request.getfixturevalue("pyav"))


def hanging_decoder(folder: Path, hangs_on: str = ".mp4") -> tuple[Path, Path]:
    """An ffmpeg that, given some files, never ends and leaves a child that never ends; where the child's id will stand."""
    program, child = folder / "decoder", folder / "child"
    hang = f"sleep 1000 & echo $! > {child}.new; mv {child}.new {child}; wait"
    real = imageio_ffmpeg.get_ffmpeg_exe()
    program.write_text(f'#!/bin/sh\ncase "$*" in *{shlex.quote(hangs_on)}*) {hang} ;; *) exec {real} "$@" ;; esac\n')
    program.chmod(0o755)
    return program, child
