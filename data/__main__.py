from typing import Annotated

import tyro

from data.check import CheckOptions, check
from data.command import run_command
from data.presets import PresetsOptions, print_presets

Command = Annotated[CheckOptions, tyro.conf.subcommand("check")] | Annotated[PresetsOptions, tyro.conf.subcommand("presets")]


def main(options: CheckOptions | PresetsOptions) -> int:
    return check(options) if isinstance(options, CheckOptions) else print_presets(options)


# tyro makes subcommands of a union, which has no type of its own.
run_command(Command, main, prog="python -m data", status=int)  # type: ignore[arg-type]
