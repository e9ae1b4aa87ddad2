"""The daemon with bugs that go off when asked for, to show how far each goes: `inspect` with the code `fail: WHERE` breaks

    request      the handler itself
    writer       the room's doc-writer, in its next commit
    task         another task of the room
    kernel       whatever takes this room's messages of its kernel
    connection   whatever takes this peer's frames

and with the code `hold the loop` nothing else runs for 0.2 s.

`python -m tests.fakes.failing_daemon serve ...` is otherwise `notebookd serve ...`.
"""

import time
from dataclasses import replace
from typing import Any, NoReturn

import msgspec

from daemon.cli import main
from daemon.requests import METHODS, Call, Later, Result


def _fail(*args: object, **named: object) -> NoReturn:
    raise ZeroDivisionError("a bug, on purpose")


async def _inspect(call: Call, params: Any) -> Result | Later:
    match params.code:
        case "fail: request":
            _fail()
        case "hold the loop":
            time.sleep(0.2)  # noqa: ASYNC251  # on purpose, too
        case "fail: writer":
            call.room.runtime.write_notebook(_fail)
        case "fail: task":
            call.room.runtime.expire = _fail  # type: ignore[method-assign]
            call.room.cells.gone["gone"] = 0.0
            call.room._move_deadline()
        case "fail: kernel":
            call.room.runtime.receive = _fail  # type: ignore[method-assign]
        case "fail: connection":
            call.recipient._receive = _fail  # type: ignore[method-assign]
    return Result(msgspec.to_builtins(params))


if __name__ == "__main__":
    METHODS["inspect"] = replace(METHODS["inspect"], handler=_inspect)
    main()
