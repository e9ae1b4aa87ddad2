"""Ctrl-C and its like as a cancellation.

A KeyboardInterrupt comes anywhere, and where it meets a destructor or a callback it is lost.
"""

import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import FrameType
from typing import TypeVar

import trio

T = TypeVar("T")


def cancel_on_signals(scope: trio.CancelScope, *numbers: signal.Signals) -> None:
    """From now on, and until somebody else hears them, these signals cancel the scope; what is ignored (`nohup`) stays so."""
    token = trio.lowlevel.current_trio_token()

    def hear(number: int, frame: FrameType | None) -> None:
        with suppress(trio.RunFinishedError):  # it is over
            token.run_sync_soon(scope.cancel)

    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, hear)


def run_until_ctrl_c(command: Callable[[], Awaitable[T]]) -> T:
    """`trio.run`, that Ctrl-C ends in order.

    Raises:
        KeyboardInterrupt: it did.
    """

    async def main() -> T:
        with trio.CancelScope() as scope:
            cancel_on_signals(scope, signal.SIGINT)
            return await command()
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    try:
        return trio.run(main)
    finally:
        signal.signal(signal.SIGINT, before)
