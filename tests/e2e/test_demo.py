"""`make run` on a terminal: what it prints to join by works, and Ctrl-C ends it."""

import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

_SEQUENCES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\r")


async def test_the_demo_stays_and_its_words_on_how_to_join_are_true() -> None:
    terminal, theirs = pty.openpty()
    try:
        command = [sys.executable, "-m", "daemon.demo"]
        async with _started(command, stdin=theirs, stdout=theirs, stderr=theirs, env=_environment()) as demo:
            os.close(theirs)
            shown = await _read_until(terminal, b"Ctrl-C ends it.")
            assert "a second peer joined late and has everything: 8 cells, 9 outputs" in shown
            watch, run = (
                shlex.split(line) for line in shown.splitlines() if line.startswith("  ") and "notebookd " in line
            )
            assert await trio.Path(watch[0]).is_file()
            assert watch[0] == run[0]

            async with _started(_ours(watch), stdout=subprocess.PIPE) as watcher:
                assert watcher.stdout is not None
                seen = bytearray(await watcher.stdout.receive_some())
                assert b"watching tour.ipynb" in seen
                done = await trio.run_process(_ours(run), capture_stdout=True, check=False)
                assert b"says hello" in done.stdout
                assert done.returncode == 1, "the second cell of the tour fails"
                while b"ZeroDivisionError: division by zero" not in seen:
                    part = await watcher.stdout.receive_some()
                    assert part, seen.decode()
                    seen += part
                watcher.send_signal(signal.SIGINT)
                assert await watcher.wait() == 0

            demo.send_signal(signal.SIGINT)
            assert await demo.wait() == 0
            assert (await _rest(terminal)).strip() in ("", "^C"), "no log, no traceback"
    finally:
        os.close(terminal)


@asynccontextmanager
async def _started(command: list[str], **options: Any) -> AsyncIterator[trio.Process]:
    """A process that a failing test leaves nothing of."""
    process = await trio.lowlevel.open_process(command, **options)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()
            if process.stdout is not None:
                await process.stdout.aclose()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "ONCE"}


def _ours(command: list[str]) -> list[str]:
    # The installed command may be another checkout's.
    return [sys.executable, "-m", "daemon", *command[1:]]


async def _read_until(terminal: int, wanted: bytes) -> str:
    shown = bytearray()
    while wanted not in shown:
        await trio.lowlevel.wait_readable(terminal)
        shown += os.read(terminal, 65536)
    return _SEQUENCES.sub(b"", bytes(shown)).decode()


async def _rest(terminal: int) -> str:
    shown = bytearray()
    while True:
        await trio.lowlevel.wait_readable(terminal)
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux: the other end is closed
            part = b""
        if not part:
            return _SEQUENCES.sub(b"", bytes(shown)).decode()
        shown += part
