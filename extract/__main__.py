from pathlib import Path

from data.command import SOME_FAILED, run_command
from extract import ExtractOptions, main


def _status(cache: Path) -> int:
    from data.cache import FAILURES_FILE

    return SOME_FAILED if (cache / FAILURES_FILE).exists() else 0


run_command(ExtractOptions, main, prog="python -m extract", status=_status)
