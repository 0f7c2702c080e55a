from typing import Annotated

import tyro

from data.check import CheckOptions, check
from data.command import run_command
from data.merge import MergeOptions, merge
from data.presets import PresetsOptions, print_presets
from data.print_sources import SourcesOptions, print_sources
from data.verify import VerifyOptions, verify

Command = (
    Annotated[CheckOptions, tyro.conf.subcommand("check")]
    | Annotated[PresetsOptions, tyro.conf.subcommand("presets")]
    | Annotated[VerifyOptions, tyro.conf.subcommand("verify")]
    | Annotated[MergeOptions, tyro.conf.subcommand("merge")]
    | Annotated[SourcesOptions, tyro.conf.subcommand("sources")]
)


def main(options: CheckOptions | PresetsOptions | VerifyOptions | MergeOptions | SourcesOptions) -> int:
    if isinstance(options, CheckOptions):
        return check(options)
    if isinstance(options, PresetsOptions):
        return print_presets(options)
    if isinstance(options, SourcesOptions):
        return print_sources(options)
    return verify(options) if isinstance(options, VerifyOptions) else merge(options)


# tyro makes subcommands of a union, which has no type of its own.
run_command(Command, main, prog="python -m data", status=int)  # type: ignore[arg-type]
