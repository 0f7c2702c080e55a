"""Ending at a signal, wherever it falls."""

import signal
import sys
from typing import Any, NoReturn

_AGAIN_S = 0.01


def interrupt_on(*signals: signal.Signals) -> None:
    """Let each of these raise KeyboardInterrupt in the main thread, from which it is called, as SIGINT does already.

    Python drops an exception that falls into a destructor or a callback of a weak reference, and the program would go on as if nobody had
    asked it to end. Such an interrupt, SIGINT's too, comes again a moment later, by SIGALRM.
    """
    for one in (*signals, signal.SIGALRM):
        signal.signal(one, _interrupt)
    hook = sys.unraisablehook

    def come_again(dropped: "sys.UnraisableHookArgs") -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        else:
            hook(dropped)

    sys.unraisablehook = come_again


def _interrupt(_signal: int, _frame: Any) -> NoReturn:
    raise KeyboardInterrupt
