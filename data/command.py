"""From a command line to a stage: one frozen dataclass of options in, an exit status out."""

import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from data.command_line import parse
from data.errors import LostProcess, UserError
from data.interrupts import interrupt_on

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where a disk, a quota or a limit is full."""

Options = TypeVar("Options")
Result = TypeVar("Result")

LOST, USER_ERROR, SOME_FAILED, INTERRUPTED = 1, 2, 3, 130
"""Exit statuses beside 0 (all done); LOST is a process of several, or the reader of the output. A bug ends with 1 too, with a traceback."""


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
    if "WORLD_SIZE" in os.environ:
        # Read when torch loads. A peer that is gone would be warned of with a stack trace of C++; data.processes names it in a line.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    interrupt_on(signal.SIGTERM)
    try:
        result = main(parse(options_type, prog, examples, default))
    except UserError as error:
        for item in error.listed:
            print(item, file=sys.stderr)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except LostProcess as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(LOST)
    except KeyboardInterrupt as stop:
        print(f"interrupted; {str(stop) or 'run the same command again to go on'}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # What is still to be written at the end goes nowhere, or Python would fail over it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print("error: the reader of the output is gone", file=sys.stderr)
        sys.exit(LOST)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        print(f"error: {error.filename or 'a file'} cannot be written ({error.strerror}): make room", file=sys.stderr)
        sys.exit(USER_ERROR)
    sys.exit(status(result))
