"""The version of this project, which pyproject.toml states."""

import tomllib
from pathlib import Path


def version() -> str:
    """The version, such as 0.2.0."""
    with (Path(__file__).parent.parent / "pyproject.toml").open("rb") as file:
        stated: str = tomllib.load(file)["project"]["version"]
    return stated
