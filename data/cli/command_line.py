"""Parse a command line into a frozen dataclass of options, with grouped --help, examples, --version and options files."""

import argparse
import dataclasses
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import docstring_parser
import tyro

from data.base.errors import UserError
from data.base.version import version
from data.cli.options_file import read_options

Options = TypeVar("Options")

MIN_COLUMNS = 40
"""Narrowest layout of --help."""


class About(StrEnum):
    """The box of --help that lists an option. Goes into the annotation of the field: `lr: Annotated[float, About.OPTIMIZER]`."""

    INPUT = "input"
    FILTER = "filter"
    CACHE = "cache"
    MODEL = "model"
    SAMPLING = "sampling"
    HEAD = "head"
    LOSS = "loss"
    OPTIMIZER = "optimizer"
    FINETUNING = "fine-tuning"
    METRICS = "metrics"
    CANDIDATES = "candidate"
    FAILURES = "failure"
    ACCESS = "access"
    MACHINE = "machine"
    OUTPUT = "output"


def _default_shown(default: str) -> str:
    """The default as --help prints it. Nothing for None: the option's text says what happens then."""
    return "" if default in ("", "None") else f"(default: {default})"


# Options of every command, for --help. `parse` reads them before the others.
@dataclasses.dataclass(frozen=True)
class _General:
    options: Annotated[Path | None, tyro.conf.arg(help_behavior_hint=_default_shown)] = None
    """File of options, YAML or JSON, such as the options.yaml of a run. The command line takes precedence. Relative paths in the file
    start from the current folder."""
    version: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Print the version and exit."""


def parse(
    options_type: type[Options], prog: str, examples: Sequence[str] = (), default: Options | None = None, args: Sequence[str] | None = None
) -> Options:
    """Parse `args` (by default sys.argv) and the file given with --options into the options.

    examples: argument lists, printed after --help.
    default: values for all options, so that even required options may be left out.

    Exits with status 0 after --help and --version, and with 2 for an option that is unknown or has an invalid value.
    Raises UserError if the options file is invalid.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--options", action="append", default=[], type=Path)
    early.add_argument("--version", action="store_true")
    arguments = list(sys.argv[1:] if args is None else args)
    # After --, arguments are positional.
    end = arguments.index("--") if "--" in arguments else len(arguments)
    try:
        given, rest = early.parse_known_args(arguments[:end])
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error
    if given.version:
        print(f"{prog} {version()}")
        sys.exit(0)
    if len(given.options) > 1:
        raise UserError("--options is given twice: put all options into one file")
    hints = get_type_hints(options_type)
    _require_values(arguments[:end], {**hints, "options": Path})
    values = {} if default is None else {field.name: getattr(default, field.name) for field in dataclasses.fields(default)}  # type: ignore[arg-type]
    if given.options:
        values |= read_options(given.options[0], options_type, prog)
    try:
        with _wide_enough():
            parsed = tyro.cli(
                _grouped(options_type, values),
                prog=prog,
                description=_sentences(docstring_parser.parse(options_type.__doc__ or "").description),
                args=[*rest, *arguments[end:]],
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.PositionalMetavarFromFieldName, tyro.conf.DisallowNone),
            )
    except SystemExit as end_of_help:
        if not end_of_help.code and examples:
            print("\nexamples:", *(f"  {prog} {example}".rstrip() for example in examples), sep="\n")
        raise
    members = [getattr(parsed, field.name) for field in dataclasses.fields(parsed)]
    found = {name: value for member in members if not isinstance(member, _General) for name, value in vars(member).items()}
    return options_type(**found)


@contextmanager
def _wide_enough() -> Iterator[None]:
    """Pretend that the terminal has at least MIN_COLUMNS: at a width of five, tyro's layout never ends and fills the memory."""
    before = os.environ.get("COLUMNS")
    if shutil.get_terminal_size().columns >= MIN_COLUMNS:
        yield
        return
    os.environ["COLUMNS"] = str(MIN_COLUMNS)
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def _require_values(arguments: Sequence[str], hints: Mapping[str, Any]) -> None:
    """Raise UserError if a switch has a value, or if a path is empty, for instance because a shell variable is not set.

    tyro would read `--quiet=true` as `--quiet` and a positional argument; pathlib reads an empty path as the current folder.
    """
    for argument, following in zip(arguments, [*arguments, "a word"][1:], strict=True):
        option, sign, value = argument.partition("=")
        hint = hints.get(option.removeprefix("--").replace("-", "_")) if option.startswith("--") else None
        if hint is bool and sign:
            raise UserError(f"{argument}: {option} takes no value: write {option} or --no-{option.removeprefix('--')}")
        if Path in (hint, *get_args(hint)) and not (value if sign else following):
            raise UserError(f"{option} is empty: name a path, or leave the option out")


def _grouped(options_type: type[Any], values: Mapping[str, Any]) -> Callable[..., Any]:
    """A dataclass of dataclasses, one for each group: tyro makes a box of --help from each. `values` become the defaults."""
    texts = help_texts(options_type)
    hints = get_type_hints(options_type, include_extras=True)
    groups: dict[str, list[Any]] = {}
    for field in dataclasses.fields(options_type):
        default = values.get(field.name, field.default)
        hint: Any = hints[field.name]
        # Python's own words are written with an underscore behind them.
        name = field.name.rstrip("_") if field.name.endswith("_") else None
        hint = Annotated[hint, tyro.conf.arg(name=name, help=texts.get(field.name), help_behavior_hint=_default_shown)]
        group = next((mark for mark in getattr(hints[field.name], "__metadata__", ()) if isinstance(mark, About)), "other")
        member = (field.name, hint) if default is dataclasses.MISSING else (field.name, hint, dataclasses.field(default=default))
        groups.setdefault(group, []).append(member)
    made = [
        (f"group{number}", Annotated[dataclasses.make_dataclass("_Members", members, kw_only=True), tyro.conf.arg(name=group)])
        for number, (group, members) in enumerate(groups.items())
    ]
    return dataclasses.make_dataclass("_Groups", [*made, ("general", _General)])


def help_texts(options_type: type[Any]) -> dict[str, str]:
    """The --help text of each option: the docstring below its field."""
    return {
        described.arg_name: _sentences(described.description)
        for owner in reversed(options_type.__mro__[:-1])
        for described in docstring_parser.parse_from_object(owner).params
    }


def _sentences(text: str | None) -> str:
    """A docstring without its line breaks."""
    return " ".join((text or "").split())
