import sys
from pathlib import Path
from typing import TYPE_CHECKING

from data.cli.command import SOME_FAILED, run_command
from extract import ExtractOptions

if TYPE_CHECKING:
    from extract.stage import Outcome


def main(options: ExtractOptions) -> "Outcome":
    from extract.stage import extract

    return extract(options)


# --fetch-model needs neither --videos nor --cache.
fetching = "--fetch-model" in (argument.replace("_", "-") for argument in sys.argv[1:])
default = ExtractOptions(videos=Path(), cache=Path()) if fetching else None
run_command(
    ExtractOptions,
    main,
    prog="python -m extract",
    status=lambda outcome: SOME_FAILED if outcome.failed else 0,
    default=default,
    examples=(
        "--videos videos --cache runs/cache --model ViT-B-32-quickgelu --pretrained openai",
        "--dataset msrvtt --videos MSRVTT/videos --annotations MSRVTT/annotations --cache runs/msrvtt --pretrained openai",
    ),
)
