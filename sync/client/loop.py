"""Where a notebook lives whose program does not await: a Trio loop in a thread of its own."""

import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import trio

from sync.client.errors import ConnectionLost, SyncTimeout
from sync.client.notebook import Notebook
from sync.client.opening import open_notebook

Returned = TypeVar("Returned")


class Loop:
    """A Trio loop in a thread, with one open notebook in it."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.notebook: Notebook
        self.closed = False
        self._error: Exception | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope = trio.CancelScope()
        self._settled = threading.Event()
        # A daemon thread: a program that forgets to close its notebook ends all the same.
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
        """Calls something in the loop."""
        try:
            return trio.from_thread.run_sync(function, trio_token=self._token)
        except (trio.RunFinishedError, trio.Cancelled):
            raise ConnectionLost("the notebook is closed") from None  # noqa: ASYNC104  # as in `run`

    def close(self) -> None:
        """Ends the loop; an error of the end is raised."""
        self.closed = True
        if self._token is not None:
            self._soon(self._stop.set if hasattr(self, "notebook") else self._scope.cancel)
        self._thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _soon(self, function: Callable[[], object]) -> None:
        assert self._token is not None
        with suppress(trio.RunFinishedError):  # nobody is left to be told
            self._token.run_sync_soon(function)
