"""Interrupt the program on a signal, wherever the signal arrives."""

import signal
import sys
from typing import Any, NoReturn

_AGAIN_S = 0.01


def interrupt_on(*signals: signal.Signals) -> None:
    """Let each of these signals raise KeyboardInterrupt in the main thread, as SIGINT already does. Call this from the main thread.

    Python drops exceptions raised in a destructor or a weak-reference callback, so the program would ignore a signal that arrives there.
    Such an interrupt, including SIGINT's, is repeated a moment later by SIGALRM.
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
