"""Where a notebook lives whose program does not await: a Trio loop in a thread of its own."""

import atexit
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakSet

import trio

from sync.client.errors import ConnectionLost, SyncTimeout
from sync.client.notebook import Notebook
from sync.client.opening import open_notebook

log = logging.getLogger(__name__)

Returned = TypeVar("Returned")

_open: "WeakSet[Loop]" = WeakSet()


@atexit.register
def _close_all() -> None:
    """What programs that end without `close` have edited is sent, as by `close`."""
    loops = list(_open)
    for loop in loops:
        loop.stop()
    for loop in loops:
        try:
            loop.close()
        except Exception as error:
            # The policy line: nobody is left to catch it, and the other notebooks are to be closed.
            log.warning("what was edited last may not have been sent: %s", error)


class Loop:
    """A Trio loop in a thread, with one open notebook in it."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.notebook: Notebook
        self.closed = False
        self._error: Exception | None = None
        if trio.lowlevel.in_trio_run():
            raise RuntimeError(
                "BlockingNotebook would hold up the Trio loop that runs in this thread; use open_notebook"
            )
        self._pid = os.getpid()
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope = trio.CancelScope()
        self._settled = threading.Event()
        # A daemon thread: a program that forgets to close its notebook ends all the same, and it is closed then.
        self._thread = threading.Thread(
            target=trio.run, args=(self._main, url, options), name="notebookd client", daemon=True
        )
        self._thread.start()
        try:
            self._settled.wait()
        except BaseException:  # Ctrl-C: nobody will close what is being opened
            self.close()
            raise
        if self._error is not None:
            raise self._error
        _open.add(self)

    async def _main(self, url: str, options: Mapping[str, Any]) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        try:
            with self._scope:
                async with open_notebook(url, **options) as self.notebook:
                    self._settled.set()
                    await self._stop.wait()
        except Exception as error:
            # Handed to the thread that waits for the opening, or that closes.
            self._error = error
        finally:
            self._settled.set()

    def run(
        self, function: Callable[[], Awaitable[Returned]], timeout: float | None = None, *, left: float | None = None
    ) -> Returned:
        """Awaits something in the loop.

        Args:
            function: what.
            timeout: seconds that the caller waits.
            left: how many of these are left; all, if it is not given.

        Raises:
            SyncTimeout: it took longer than `timeout` seconds.
            ConnectionLost: the notebook is closed.
        """
        self._require_own_process()
        scope = trio.CancelScope()

        async def run() -> Returned:
            if timeout is not None:
                scope.deadline = trio.current_time() + (timeout if left is None else left)
            with scope:
                return await function()
            raise SyncTimeout(f"not within {timeout:g} s")

        try:
            return trio.from_thread.run(run, trio_token=self._token)
        except (trio.RunFinishedError, trio.Cancelled):
            # Not a task of ours that was cancelled: the loop has ended under this thread, which is in none.
            raise ConnectionLost("the notebook is closed") from None  # noqa: ASYNC104  # see above
        except KeyboardInterrupt:
            self._soon(scope.cancel)
            raise

    def read(self, function: Callable[[], Returned]) -> Returned:
        """Calls something in the loop.

        Raises:
            ConnectionLost: the notebook is closed.
        """
        self._require_own_process()
        try:
            return trio.from_thread.run_sync(function, trio_token=self._token)
        except (trio.RunFinishedError, trio.Cancelled):
            raise ConnectionLost("the notebook is closed") from None  # noqa: ASYNC104  # as in `run`

    def close(self) -> None:
        """Ends the loop; an error of the end is raised."""
        self.stop()
        if self._pid != os.getpid():
            return  # it is the parent's, who has the thread
        self._thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def stop(self) -> None:
        """Begins the end of the loop."""
        self.closed = True
        _open.discard(self)
        if self._token is not None and self._pid == os.getpid():
            self._soon(self._stop.set if hasattr(self, "notebook") else self._scope.cancel)

    def _require_own_process(self) -> None:
        """A fork copies the notebook and not the thread that it lives in: whoever waited for it would do so for ever."""
        if self._pid != os.getpid():
            raise ConnectionLost("the notebook was opened before this process was forked; open it anew here")

    def _soon(self, function: Callable[[], object]) -> None:
        assert self._token is not None
        with suppress(trio.RunFinishedError):  # nobody is left to be told
            self._token.run_sync_soon(function)
