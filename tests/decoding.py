"""Fixtures: both ways to decode."""

from collections.abc import Callable, Iterator
from functools import partial

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
