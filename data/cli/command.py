"""Run a stage from the command line: parse a frozen dataclass of options, call `main`, exit with a status."""

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
from data.cli.meaning import AtLeast, Meaning, SavesMemory, marks
from data.compute.memory import SAY_SO, Exhausted, Lack, exhausted

PATH_ERRORS = (
    *(errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO, errno.ESTALE),
)
"""errno values of a path that the user has to change, or of the disk below it."""

Options = TypeVar("Options")
Result = TypeVar("Result")

LOST, USER_ERROR, SOME_FAILED, INTERRUPTED, READER_GONE = 1, 2, 3, 130, 141
"""Exit statuses other than 0 (all done). LOST: a process of this program died. A bug also exits with 1, with a traceback.

READER_GONE is the status that a shell reports for SIGPIPE, as other programs exit in `| head -1`. `set -o pipefail` can therefore
tell it from an error, and nothing is printed. SIGPIPE itself stays ignored: it would also kill the program when a socket of the
server or a pipe to a decoder closes.
"""


def run_command(
    options_type: type[Options],
    main: Callable[[Options], Result],
    prog: str,
    status: Callable[[Result], int] = lambda _result: 0,
    default: Options | None = None,
    examples: Sequence[str] = (),
) -> None:
    """Parse sys.argv into the options, run `main`, and exit with a status that a shell pipeline can act on.

    status: maps the result of `main` to the exit status; 0 by default.
    default: values for all options, so that even required options may be left out.
    examples: argument lists, printed after --help.

    SIGTERM, which batch systems send, is handled like Ctrl-C. The text of a KeyboardInterrupt, if any, tells the user how to resume.
    """
    with output_guarded():
        _run(options_type, main, prog, status, default, examples)


@contextmanager
def output_guarded() -> Iterator[None]:
    """Prepare the standard streams, and exit with a status if standard output fails: silently if its reader is gone, else with a line."""
    open_streams()
    try:
        try:
            yield
        finally:
            # Python would flush at exit too, but would print a failure itself.
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
        # torch reads this when it loads. Otherwise it prints a C++ stack trace for a lost peer, which ProcessGroup names in one line.
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
    except SAY_SO as error:
        line = _line(error, options) if isinstance(error, OSError) else None
        memory = exhausted(error) if line is None and options is not None else None
        if memory is not None:
            line = _memory_line(memory, options)
        if line is None:
            raise
        print(f"error: {visible(line)}", file=sys.stderr)
        sys.exit(USER_ERROR)
    sys.exit(status(result))


def _memory_line(memory: Exhausted, options: Any) -> str:
    """The error line for exhausted memory. The remedies are the options marked with SavesMemory that are not in use yet."""
    remedies = []
    for name, found in marks(type(options)).items():
        value = memory.in_use.get(name, getattr(options, name))
        value = min(value) if isinstance(value, tuple) else value  # of a sweep
        usable = value is not True and AtLeast(value) not in found and (Meaning.FINETUNING not in found or options.finetune)
        remedies += [mark.how.format(value) for mark in found if isinstance(mark, SavesMemory) and usable]
        if name == "device" and memory.lack is Lack.GPU:
            remedies.append("--device cpu")
    asked = f" (no room for {memory.asked} more)" if memory.asked else ""
    use = f"use {', '.join(remedies[:-1])}{' or ' * (len(remedies) > 1)}{remedies[-1]}, or " if remedies else ""
    end = "end other programs that use it"
    match memory.lack:
        case Lack.THREADS:
            end = "end other programs, or raise the limits (ulimit -u, ulimit -v)"
            return f"no more threads or processes can be started, for lack of memory or by the limit of processes (ulimit -u): {use}{end}"
        case Lack.PERHAPS:
            bug = "; if there was enough, it is a bug to report"
            return f"oneDNN, which computes on the CPU, failed ({memory.said}), perhaps for too little free memory: {use}{end}{bug}"
        case Lack.GPU:
            return f"the GPU has too little free memory{asked}: {use}{end}"
        case Lack.MACHINE:
            return f"this machine has too little free memory{asked}: {use}{end}"


def _line(error: OSError, options: Any) -> str | None:
    """The error line for an OSError that the user can fix (a full disk, a path among the options); None for any other."""
    if error.filename == OUTPUT:
        return None
    if error.errno == errno.ENOENT and error.filename is None and "temporary directory" in str(error.strerror):
        return f"no temporary file can be made ({error.strerror}): make room, or let TMPDIR name another folder"
    if error.errno in NO_ROOM:
        return f"{error.filename or 'a file'} cannot be written ({error.strerror}): make room"
    if options is None or error.errno not in PATH_ERRORS or not isinstance(error.filename, str | bytes | os.PathLike):
        return None
    name = os.fsdecode(error.filename)
    if not any(Path(os.path.abspath(name)).is_relative_to(os.path.abspath(given)) for given in _paths(options)):
        return None
    return f"{name}: {error.strerror}: make it accessible, or name another path"


def _paths(options: Any) -> Iterator[Path]:
    """The paths among a command's options. A string may be a path too, such as a run, or hold one after a colon: local-dir:FOLDER."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Path | str):
                yield from (Path(text) for text in (str(one), str(one).partition(":")[2]) if text)
