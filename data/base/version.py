"""The version of this project, which pyproject.toml states, and where its checkout lies."""

import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def version() -> str:
    """The version, such as 0.2.0."""
    with (CHECKOUT / "pyproject.toml").open("rb") as file:
        stated: str = tomllib.load(file)["project"]["version"]
    return stated
