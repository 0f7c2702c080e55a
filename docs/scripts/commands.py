"""Every command with its options: `python -m docs.scripts.commands` writes docs/reference/commands.md; --list prints their names."""

import ast
import contextlib
import io
import os
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "commands.md"
ROOMS = ("extract", "train_head", "search", "evaluate", "data", "demo", "experiments", "benchmarks")
WITHOUT_PAGE = ("demo", "experiments", "benchmarks")
"""Rooms whose commands are for who works on this project: they are listed, and their --help explains them."""
COLUMNS = "100"
HEAD = """# Commands

Every command and every option, as `--help` prints them. Written by `python -m docs.scripts.commands`; not by hand.

Each command is `python -m ROOM` or `python -m ROOM.VERB`, run in the checkout; `glccl ROOM.VERB` runs it from any folder. Names are whole
(`--cache`, never `--ca`), may be written with dashes or underscores, and every switch has a `--no-` form. `--options FILE` reads options
from YAML or JSON ([example](../guide/own-videos.md#options-in-a-file)), and `--version` prints the version.
[Exit statuses](exit-status.md) are the same for all.
"""


class Command(NamedTuple):
    """What a module gives to run_command."""

    options: type[Any]
    prog: str
    examples: tuple[str, ...]
    default: Any


def modules() -> list[str]:
    """The modules that are commands, in the order of the rooms."""
    found = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            names = {
                node.func.id
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            }
            if "run_command" in names:
                found.append(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__"))
    return sorted(found, key=lambda module: (ROOMS.index(module.split(".")[0]), module))


def purpose(module: str) -> str:
    """The first line of what a command's module says of itself."""
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
    # The listing has the name of the command already.
    text = re.sub(r"`python -m [^`]*`(: | writes )(\w)", lambda match: match[2].upper(), text, count=1)
    return re.sub(r",? ?(as a page)?: `[^`]*`", "", text.partition(". ")[0]).rstrip(".:")


def command(module: str) -> Command:
    """The command of a module, which is run up to where it would read its command line."""
    given: list[Command] = []

    def record(options: type[Any], *_: object, prog: str, examples: tuple[str, ...] = (), default: Any = None, **__: object) -> None:
        given.append(Command(options, prog, tuple(examples), default))

    with mock.patch("data.cli.command.run_command", record), mock.patch.object(sys, "argv", ["command"]), _unloaded(module):
        runpy.run_module(module, run_name="__main__")
    return given[0]


@contextlib.contextmanager
def _unloaded(module: str) -> Iterator[None]:
    """runpy warns of a module that is loaded already. It is put back as it was: a package loaded anew would lack its loaded modules."""
    parent, _, name = module.rpartition(".")
    loaded = sys.modules.pop(module, None) if parent else None
    try:
        yield
    finally:
        if loaded is not None:
            sys.modules[module] = loaded
            setattr(sys.modules[parent], name, loaded)


def help_of(found: Command) -> str:
    """What --help prints on a terminal of COLUMNS columns, without colours."""
    from data.cli.command_line import parse

    output = io.StringIO()
    plain = {"COLUMNS": COLUMNS, "NO_COLOR": "1", "TERM": "dumb"}
    with mock.patch.dict(os.environ, plain), contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        parse(found.options, found.prog, found.examples, found.default, args=["--help"])
    return "\n".join(line.rstrip() for line in output.getvalue().strip().split("\n"))


def page() -> str:
    """The text of docs/reference/commands.md."""
    parts = [HEAD]
    for module in modules():
        if module.split(".")[0] not in WITHOUT_PAGE:
            parts.append(f"## {module}\n\n```text\n{help_of(command(module))}\n```\n")
    parts.append("## For work on the project\n\nThese explain their options with `--help` too.\n\n| command | does |\n| --- | --- |\n")
    listed = (module for module in modules() if module.split(".")[0] in WITHOUT_PAGE)
    parts[-1] += "".join(f"| `{module}` | {purpose(module)} |\n" for module in listed)
    return "\n".join(parts)


def main() -> None:
    """Write the page, or list the commands."""
    if sys.argv[1:] == ["--list"]:
        from data.cli.command import output_guarded

        with output_guarded():
            print("usage: glccl ROOM[.VERB] [OPTIONS]; each command has a --help\n")
            for module in modules():
                print(f"  {module:22} {purpose(module)}")
    elif sys.argv[1:] == ["--print"]:
        sys.stdout.buffer.write(page().encode())
    else:
        PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
