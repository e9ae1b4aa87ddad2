"""A peer in a process of its own: our Python client."""

import time
from contextlib import AsyncExitStack
from typing import Any

import trio

from benchmarks.workers import now, serve_async
from sync.client import open_notebook
from sync.client.executions import Execution
from sync.client.notebook import Notebook
from sync.core.binding import ROOT, ObjId


class Peer:
    """One notebook at a time."""

    def __init__(self) -> None:
        self._opened = AsyncExitStack()
        self._notebook: Notebook
        self._running: Execution

    async def open(self, url: str, token: str, notebook: str) -> float:
        """Connects; seconds until both documents are here and the daemon has read the whole file."""
        await self._opened.aclose()
        self._opened = AsyncExitStack()
        start = now()
        self._notebook = await self._opened.enter_async_context(open_notebook(url, token=token, notebook=notebook))
        return now() - start

    async def close(self) -> None:
        """Leaves."""
        await self._opened.aclose()

    async def execute(self, cell_id: str, count: int) -> dict[str, Any]:
        """Executes a cell whose result is 2, `count` times, one after another.

        Returns:
            {samples: seconds from the call of `execute` to its result with the outputs; sent, done: the moments of both;
            execution_ids; cpu: seconds of this process}.
        """
        samples, sent, done, ids = [], [], [], []
        cell = self._notebook.cell(cell_id)
        before = time.process_time()
        for _ in range(count):
            start = now()
            execution = await cell.execute()
            result = await execution.result()
            end = now()
            samples.append(end - start)
            sent.append(start)
            done.append(end)
            ids.append(execution.id)
            # Others may be before it: at its thousandth result IPython warns that its cache is full.
            assert result.outputs[-1].data == {"text/plain": "2"}, result
        cpu = time.process_time() - before
        return {"samples": samples, "sent": sent, "done": done, "execution_ids": ids, "cpu": cpu}

    async def flood(self, cell_id: str, last_line: str | None, outputs: int) -> dict[str, Any]:
        """Executes a cell once.

        Returns:
            {seconds: from the call of `execute` to the last line of text, or to so many outputs, in the replica; result:
            to its result with all blobs; texts, data: of the outputs; cpu: seconds of this process}.
        """
        before = time.process_time()
        start = now()
        execution = await self._notebook.cell(cell_id).execute()

        def is_there() -> bool:
            # Of a long stream the end is joined to what is before, and is then in a blob.
            return self._shows(execution, last_line, outputs) or execution.status == "done"

        await self._notebook.wait_for(is_there)
        end = now()
        result = await execution.result()
        assert result.status == "done", result.status
        return {
            "seconds": end - start,
            "result": now() - start,
            "texts": [output.text for output in result.outputs],
            "data": [output.data for output in result.outputs],
            "cpu": time.process_time() - before,
        }

    async def start(self, cell_id: str) -> None:
        """Executes a cell and returns once it runs."""
        self._running = await self._notebook.cell(cell_id).execute()
        await self._notebook.wait_for(lambda: self._running.status == "running")

    async def finish(self) -> None:
        """Returns once what `start` started is done."""
        await self._running.result()

    async def save(self) -> None:
        """Saves the notebook to its file."""
        await self._notebook.save()

    def _shows(self, execution: Execution, last_line: str | None, outputs: int) -> bool:
        """Whether the end of an execution's outputs is in the replica; as quick for many as for one."""
        replica = self._notebook.runtime_replica
        cell = self._at(ROOT, "cells", execution.cell_id)
        found = replica.get(cell, "execution_id")
        if found is None or found[0] != execution.id:
            return False
        shown = self._at(cell, "outputs")
        if replica.length(shown) < outputs or last_line is None:
            return replica.length(shown) == outputs
        text = self._at(shown, outputs - 1, "text")
        segment = replica.get(text, replica.length(text) - 1) if replica.length(text) else None
        return segment is not None and isinstance(segment[0], str) and segment[0].endswith(last_line)

    def _at(self, obj: ObjId, *path: str | int) -> ObjId:
        for key in path:
            found = self._notebook.runtime_replica.get(obj, key)
            assert found is not None, path
            obj = found[1]
        return obj


async def _main() -> None:
    peer = Peer()
    commands = (peer.open, peer.close, peer.execute, peer.flood, peer.start, peer.finish, peer.save)
    try:
        await serve_async({command.__name__: command for command in commands})
    finally:
        with trio.move_on_after(5, shield=True):
            await peer.close()


if __name__ == "__main__":
    trio.run(_main)
