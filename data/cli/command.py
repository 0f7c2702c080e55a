"""From a command line to a stage: one frozen dataclass of options in, an exit status out."""

import dataclasses
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from data.base.errors import LostProcess, UserError, first_of
from data.base.interrupts import interrupt_on
from data.base.quoting import visible
from data.base.streams import OUTPUT, open_streams
from data.base.writable import NO_ROOM
from data.cli.command_line import parse

OF_A_PATH = (
    *(errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO, errno.ESTALE),
)
"""What the system says of a path that a user has to change, or of the disk under it."""

Options = TypeVar("Options")
Result = TypeVar("Result")

LOST, USER_ERROR, SOME_FAILED, INTERRUPTED, READER_GONE = 1, 2, 3, 130, 141
"""Exit statuses beside 0 (all done); LOST is a process of several. A bug ends with 1 too, with a traceback.

READER_GONE is what a shell makes of SIGPIPE, of which other programs die in `| head -1`. So `set -o pipefail` tells it from an error, and
nothing is printed. SIGPIPE itself stays ignored: it would also kill over a socket of the server or a pipe to a decoder.
"""


def run_command(
    options_type: type[Options],
    main: Callable[[Options], Result],
    prog: str,
    status: Callable[[Result], int] = lambda _result: 0,
    default: Options | None = None,
    examples: Sequence[str] = (),
) -> None:
    """Parse sys.argv into the options, run `main`, and end with a status that a shell pipeline can act on.

    `status` looks at what `main` gave back and says how it went, where that is not simply 0. With a `default`, no option must be given, not
    even those without a default of their own. `examples` are arguments, shown after --help. SIGTERM, which batch systems send, ends a stage
    as an interrupt does. A KeyboardInterrupt may say how to go on.
    """
    with output_guarded():
        _run(options_type, main, prog, status, default, examples)


@contextmanager
def output_guarded() -> Iterator[None]:
    """Standard streams as scripts have them: ends the program with a status, and with a line where that helps, when output fails."""
    open_streams()
    try:
        try:
            yield
        finally:
            # Not left to the end of Python, which would print what fails there.
            sys.stdout.flush()
    except BrokenPipeError as error:
        if error.filename != OUTPUT:
            raise
        sys.exit(READER_GONE)
    except OSError as error:
        if error.filename != OUTPUT:
            raise
        print(f"error: {OUTPUT} cannot be written ({error.strerror}): make room, or write it elsewhere", file=sys.stderr)
        sys.exit(USER_ERROR)


def _run(
    options_type: type[Options],
    main: Callable[[Options], Result],
    prog: str,
    status: Callable[[Result], int],
    default: Options | None,
    examples: Sequence[str],
) -> NoReturn:
    if "WORLD_SIZE" in os.environ:
        # Read when torch loads. A peer that is gone would be warned of with a stack trace of C++; ProcessGroup names it in a line.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    interrupt_on(signal.SIGTERM)
    options: Options | None = None
    try:
        options = parse(options_type, prog, examples, default)
        result = main(options)
    except UserError as error:
        for item in first_of(error.listed, error.whole):
            print(visible(item), file=sys.stderr)
        print(f"error: {visible(error)}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except LostProcess as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(LOST)
    except KeyboardInterrupt as stop:
        print(f"interrupted; {str(stop) or 'run the same command again to go on'}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except OSError as error:
        line = _line(error, options)
        if line is None:
            raise
        print(f"error: {visible(line)}", file=sys.stderr)
        sys.exit(USER_ERROR)
    sys.exit(status(result))


def _line(error: OSError, options: Any) -> str | None:
    """What a user can put right of an error of the system: a full disk, or a path that was given. None where it is another."""
    if error.filename == OUTPUT:
        return None
    if error.errno == errno.ENOENT and error.filename is None and "temporary directory" in str(error.strerror):
        return f"no temporary file can be made ({error.strerror}): make room, or let TMPDIR name another folder"
    if error.errno in NO_ROOM:
        return f"{error.filename or 'a file'} cannot be written ({error.strerror}): make room"
    if options is None or error.errno not in OF_A_PATH or not isinstance(error.filename, str | bytes | os.PathLike):
        return None
    name = os.fsdecode(error.filename)
    if not any(Path(os.path.abspath(name)).is_relative_to(os.path.abspath(given)) for given in _paths(options)):
        return None
    return f"{name}: {error.strerror}: make it accessible, or name another path"


def _paths(options: Any) -> Iterator[Path]:
    """The paths among a command's options. Text may be one too, such as a run, or hold one behind a colon, as in local-dir:FOLDER."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Path | str):
                yield from (Path(text) for text in (str(one), str(one).partition(":")[2]) if text)
