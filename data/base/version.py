"""The version of this project, which pyproject.toml states, where its checkout lies, and the versions of the values that it reads back."""

import tomllib
from pathlib import Path

from data.base.errors import UserError

CHECKOUT = Path(__file__).parents[2]


def version() -> str:
    """The version, such as 0.2.0."""
    with (CHECKOUT / "pyproject.toml").open("rb") as file:
        stated: str = tomllib.load(file)["project"]["version"]
    return stated


def require_known(found: int, known: int, what: str) -> None:
    """Raises UserError if a value on disk has a later version than the latest `known` here; `what` names it and its file."""
    if found > known:
        raise UserError(f"{what} has version {found}, and this program reads up to {known}: use the program that wrote it, or a later one")
