"""The version of this project (from pyproject.toml), its checkout, and version checks of values read back from disk."""

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
    """Raise UserError if a value on disk has a later version than `known`; `what` names the value and its file."""
    if found > known:
        raise UserError(
            f"{what} has version {found}, but this program reads versions up to {known}: use the program that wrote it, or a later one"
        )
