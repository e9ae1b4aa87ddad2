"""The commands that talk to a running daemon: run, watch, status, stop."""

import json
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import trio
from rich.console import Console
from rich.table import Table
from rich.text import Text

from daemon.printing import ENDED, Printer
from daemon.state_dir import DAEMON_FILE
from sync.client import ConnectionLost, Notebook, RequestFailed, open_notebook
from sync.client.executions import Execution
from sync.core.identifiers import parse_automerge_url

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_NO_KERNEL, EXIT_NO_DAEMON = 0, 1, 2, 3, 4

# A daemon ends within 5 s of its SIGTERM; this is for its machine being busy.
STOP_SECONDS = 15


async def run_notebook(
    url: str, token: str, path: Path, *, save: bool, output: Path | None, timeout: float | None
) -> int:
    """Runs all cells and shows them; the exit code of `notebookd run`."""
    printer = Printer()
    try:
        async with open_notebook(url, token=token, path=str(path)) as notebook:
            try:
                await notebook.launch()
            except RequestFailed as failed:
                printer.say(f"no kernel: {failed}", "red")
                return EXIT_NO_KERNEL
            code = await _run_all(notebook, printer, timeout)
            if output is not None:
                await _write_copy(url, token, notebook, output)
            elif save:
                await notebook.save()
            return code
    except RequestFailed as failed:
        return _refused(path, failed)
    except ConnectionLost as lost:
        return _unreachable(url, lost)


async def _run_all(notebook: Notebook, printer: Printer, timeout: float | None) -> int:
    code = EXIT_OK
    with trio.CancelScope() as leaving:
        async with trio.open_nursery() as nursery:
            await nursery.start(_interrupt_on_ctrl_c, notebook, leaving, printer)
            executions = await notebook.run_all()
            for number, execution in enumerate(executions, 1):
                status = await _follow(notebook, execution, printer, f"[{number}/{len(executions)}]", timeout)
                if status != "done":
                    code = EXIT_FAILED
            nursery.cancel_scope.cancel()
    return EXIT_FAILED if leaving.cancelled_caught else code


async def _follow(notebook: Notebook, execution: Execution, printer: Printer, title: str, timeout: float | None) -> str:
    if timeout is None:
        return await printer.follow(notebook, execution, title)
    await notebook.wait_for(lambda: execution.status != "queued")
    with trio.move_on_after(timeout):
        return await printer.follow(notebook, execution, title)
    printer.say(f"  interrupted: it took more than {timeout:g} s", "red")
    await notebook.interrupt()
    await notebook.wait_for(lambda: execution.status in ENDED)
    return "interrupted"


async def _interrupt_on_ctrl_c(
    notebook: Notebook, leaving: trio.CancelScope, printer: Printer, task_status: trio.TaskStatus[None]
) -> None:
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        task_status.started()
        pressed = 0
        async for _ in signals:
            pressed += 1
            if pressed > 1:
                leaving.cancel()
                return
            printer.say("interrupting; Ctrl-C again to leave it running", "yellow")
            await notebook.interrupt()


async def _write_copy(url: str, token: str, notebook: Notebook, output: Path) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        answer = await client.get(
            f"{url}/api/notebooks/{parse_automerge_url(notebook.url)}/file",
            headers={"Authorization": f"Bearer {token}"},
        )
    answer.raise_for_status()
    await trio.Path(output).write_bytes(answer.content)


async def watch_notebook(url: str, token: str, path: Path) -> int:
    """Shows every execution that starts, until Ctrl-C; the exit code of `notebookd watch`."""
    printer = Printer()
    try:
        async with open_notebook(url, token=token, path=str(path)) as notebook:
            printer.say(f"watching {path.name}: kernel {notebook.kernel_status}; Ctrl-C ends", "dim")
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_watch, notebook, printer)
                    async for _ in signals:
                        nursery.cancel_scope.cancel()
                        break
        return EXIT_OK
    except RequestFailed as failed:
        return _refused(path, failed)
    except ConnectionLost as lost:
        return _unreachable(url, lost)


async def _watch(notebook: Notebook, printer: Printer) -> None:
    async for event in notebook.events():
        if event.method == "execution_started":
            execution = Execution(notebook, event.params["execution_id"], event.params["cell_id"])
            await printer.follow(notebook, execution, f"[{event.params['execution_count'] or '*'}]")
        elif event.method == "kernel_error":
            printer.say(f"kernel: {event.params['message']}", "red")


async def show_status(url: str, token: str, *, as_json: bool) -> int:
    """Prints the daemon and its notebooks."""
    try:
        async with httpx.AsyncClient(timeout=10) as client:
            answer = await client.get(f"{url}/api/status", headers={"Authorization": f"Bearer {token}"})
        answer.raise_for_status()
    except httpx.TransportError as error:
        return _unreachable(url, error)
    except httpx.HTTPStatusError as error:
        print(f"notebookd: the daemon at {url} answers {error.response.status_code}", file=sys.stderr)
        return EXIT_FAILED
    status = answer.json()
    if as_json:
        print(json.dumps({"url": url, **status}))
        return EXIT_OK
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"notebookd {status['version']} at {url}", markup=False)
    console.print(_summary(status), markup=False)
    if status["notebooks"]:
        table = Table("notebook", "kernel", "status", "queued", "peers")
        for row in status["notebooks"]:
            kernel, queued = row["kernel"], len(row["queue"]["queued"])
            table.add_row(Text(row["path"]), Text(kernel["name"]), kernel["status"], str(queued), str(row["peers"]))
        console.print(table)
    return EXIT_OK


def _summary(status: dict[str, Any]) -> str:
    up = str(timedelta(seconds=round(status["uptime_seconds"])))
    memory = f", {status['memory_bytes'] / 2**20:.0f} MiB" if "memory_bytes" in status else ""
    return f"process {status['pid']}, up {up}{memory}, {status['peers']} peers"


async def wait_until_gone(state_dir: Path) -> bool:
    """Waits until the daemon took its announcement away, which is the last thing it does; False if it does not."""
    from watchfiles import awatch

    with trio.move_on_after(STOP_SECONDS):
        if not await trio.Path(state_dir / DAEMON_FILE).exists():
            return True
        async for _ in awatch(state_dir):
            if not await trio.Path(state_dir / DAEMON_FILE).exists():
                return True
    return False


def _refused(path: Path, failed: RequestFailed) -> int:
    print(f"notebookd: {path}: {failed}", file=sys.stderr)
    return (
        EXIT_USAGE if failed.reason in ("not_found", "outside_root", "invalid_notebook", "bad_request") else EXIT_FAILED
    )


def _unreachable(url: str, error: Exception) -> int:
    print(f"notebookd: no daemon answers at {url} ({error}); start one with `notebookd serve`", file=sys.stderr)
    return EXIT_NO_DAEMON
