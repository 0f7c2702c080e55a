"""The lists of packages agree: constraints.txt pins what every requirements file installs, directly or not."""

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

FILES = sorted(ROOT.glob("requirements*.txt"))
OF_A_PLATFORM = re.compile("^(cuda|nvidia|triton)")
"""Packages that torch needs only in its builds for GPUs."""


def listed(file: Path) -> Iterator[Requirement]:
    """The requirements of a file and of the files that it includes."""
    for line in file.read_text().splitlines():
        if line.startswith("-r "):
            yield from listed(file.with_name(line.removeprefix("-r ")))
        elif line and not line.startswith("#"):
            yield Requirement(line)


def pinned() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    names = [canonicalize_name(Requirement(line).name) for line in lines]
    assert len(names) == len(set(names))
    return {name: next(iter(Requirement(line).specifier)).version for name, line in zip(names, lines, strict=True)}


def installed_by(requirements: list[Requirement]) -> dict[str, str]:
    """Name and version of each package that these bring, read from what is installed."""
    found: dict[str, str] = {}
    ahead = [(requirement, "") for requirement in requirements]
    while ahead:
        requirement, extra = ahead.pop()
        name = canonicalize_name(requirement.name)
        if name in found or OF_A_PLATFORM.match(name) or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # for another platform
        assert package.version in requirement.specifier, f"{requirement} is installed as {package.version}"
        found[name] = package.version
        ahead += [(Requirement(text), extra) for text in package.requires or () for extra in (requirement.extras or {""})]
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_package_of_a_list_is_pinned_once(file: Path) -> None:
    versions, found = pinned(), installed_by(list(listed(file)))
    assert found
    assert sorted(found.keys() - versions.keys() - {"pip"}) == []


def test_every_optional_list_is_part_of_the_developers_list() -> None:
    """So `make test` resolves all of them together."""
    names = {line.removeprefix("-r ") for line in (ROOT / "requirements-dev.txt").read_text().splitlines() if line.startswith("-r ")}
    assert names == {file.name for file in FILES} - {"requirements-dev.txt"}
