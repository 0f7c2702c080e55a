"""Options files: `--options FILE` reads one, and every run writes one with the options that it used.

An options file is YAML or JSON and maps option names, without the leading dashes, to values.
"""

import contextlib
import dataclasses
import difflib
import io
import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro
import yaml

from data.base.errors import UserError, one_line
from data.base.provenance import json_value
from data.base.quoting import quote
from data.base.whole_files import write_atomically

OPTIONS_FILE = "options.yaml"
"""Name of the options file in the folder of a run."""
_BOOLEANS = {"true": "True", "yes": "True", "on": "True", "false": "False", "no": "False", "off": "False"}
_NONE = ("", "~", "null")
_WANTED = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}


def write_options(path: Path, options: Any, prog: str) -> None:
    """Write a command's options to a file; `PROG --options PATH` repeats the command. Raises UserError if the file cannot be written."""
    values = {name.rstrip("_").replace("_", "-"): _listed(value) for name, value in dataclasses.asdict(options).items()}
    # YAML is dumped as ASCII: a file name that is not UTF-8 is escaped and survives the round trip.
    write_atomically(path, f"# {prog} --options {path.name}\n{yaml.safe_dump(values, sort_keys=False, width=1000)}")


def read_options(path: Path, options_type: type[Any], prog: str) -> dict[str, Any]:
    """The values of an options file, by field name of `options_type`.

    Raises UserError if the file cannot be read, names an unknown option, or holds a value that the option does not accept.
    """
    hints = get_type_hints(options_type)
    found: dict[str, Any] = {}
    for key, value in _mapping(path).items():
        name = key.removeprefix("--").replace("-", "_")
        name = f"{name}_" if f"{name}_" in hints else name
        if name not in hints:
            raise UserError(f"--options {path}: {quote(key)} is not an option of {prog}{_close(name, hints)}")
        if name in found:
            raise UserError(f"--options {path}: {quote(key)} is given twice")
        found[name] = _value(hints[name], value, f"--options {path}: {key}")
    return found


def _mapping(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"--options {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--options {path} is not UTF-8: save it as UTF-8") from error
    try:
        # BaseLoader keeps scalars as written. The YAML types would make 1e-3 text and "no" a boolean.
        node = yaml.compose(text, Loader=yaml.BaseLoader)
        content = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise UserError(f"--options {path} cannot be read as YAML or JSON: {one_line(error)}") from error
    except RecursionError as error:
        raise UserError(f"--options {path} cannot be read as YAML or JSON: it is nested too deeply") from error
    if not isinstance(content, dict) or not isinstance(node, yaml.MappingNode):
        raise UserError(f"--options {path}: expected lines NAME: VALUE, or a JSON object")
    keys = [key.value for key, _ in node.value]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise UserError(f"--options {path}: {quote(twice)} is given twice")
    return content


def _value(hint: Any, value: Any, place: str) -> Any:
    """Convert a value to the type of the option, by the same rules as the command line."""
    if get_origin(hint) is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(_value(get_args(hint)[0], item, place) for item in items)
    if not isinstance(value, str):
        raise UserError(f"{place}: expected {_wanted(hint)}, not a {'list' if isinstance(value, list) else 'mapping'}")
    if value in _NONE and type(None) in get_args(hint):
        return None
    if hint is Path and not value:
        raise UserError(f"{place} is empty: expected a path")
    if hint is bool:
        value = _BOOLEANS.get(value.lower(), value)
    field: Any = dataclasses.make_dataclass("Field", [("value", hint)])
    try:
        # tyro prints a long error, even with console_outputs=False.
        with contextlib.redirect_stderr(io.StringIO()):
            parsed = tyro.cli(field, args=[f"--value={value}"], config=(tyro.conf.FlagConversionOff,))
    except SystemExit as error:
        raise UserError(f"{place} is {quote(value)}: expected {_wanted(hint)}") from error
    return parsed.value


def _wanted(hint: Any) -> str:
    """The values that a type accepts, in words."""
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_wanted(kind) for kind in get_args(hint) if kind is not type(None))
    return _WANTED.get(hint, str(hint))


def _close(name: str, hints: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, hints, n=1)
    return f": did you mean {near[0].replace('_', '-')}?" if near else ""


def _listed(value: Any) -> Any:
    if isinstance(value, tuple):
        return [json_value(item) for item in value]
    # YAML would write .inf, which the command line does not read.
    return str(value) if isinstance(value, float) and not math.isfinite(value) else json_value(value)
