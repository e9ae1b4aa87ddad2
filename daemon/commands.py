"""The commands that talk to a running daemon: run, watch, status."""

import json
import os
import signal
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import trio
from rich.console import Console
from rich.table import Table
from rich.text import Text

from daemon.core.control_characters import escaped
from daemon.files import FileUnwritable, write_atomic
from daemon.printing import ENDED, Printer
from daemon.signals import run_until_ctrl_c
from daemon.streams import complain, outlive_stdout
from sync.client import (
    ConnectionLost,
    EventStream,
    Execution,
    Notebook,
    ProtocolError,
    RequestFailed,
    SyncTimeout,
    open_notebook,
)
from sync.client.http import Address, DaemonHttp, open_http
from sync.core.identifiers import parse_automerge_url
from sync.core.notebook_schema import may_fail

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_NO_KERNEL, EXIT_NO_DAEMON = 0, 1, 2, 3, 4

# What a cell needs to tidy up after an interrupt; one that goes on takes none.
INTERRUPT_SECONDS = 5


class Unwritable(Exception):
    """What the user wants written can't be."""


async def run_notebook(
    url: str, token: str, path: str, *, save: bool, output: Path | None, timeout: float | None
) -> int:
    """Runs all cells and shows them; the exit code of `notebookd run`."""
    if output is not None:
        _require_place(output)
    # A `head` that has seen enough costs nobody what was run: it goes on to its end, and is saved.
    outlive_stdout("the run goes on unseen")
    printer = Printer()
    async with open_http(Address(url, "", token)) as http:
        opened = {entry["notebook"] for entry in (await http.read_json("/api/notebooks"))["notebooks"]}
        async with open_notebook(url, token=token, path=path) as notebook:
            _warn_of_file(path, notebook)
            try:
                await notebook.launch()
            except RequestFailed as failed:
                complain(f"{path}: no kernel: {failed}")
                return EXIT_NO_KERNEL
            code = await _run_all(notebook, printer, timeout)
            if output is not None:
                await _write_copy(http, notebook, output)
            elif save:
                await notebook.save()
            if notebook.url not in opened and (output is not None or not save):
                # It was opened for this run alone, and the daemon would save what changed at its end.
                await http.close_unsaved(parse_automerge_url(notebook.url), notebook.peer_id)
            return code


async def _run_all(notebook: Notebook, printer: Printer, timeout: float | None) -> int:
    code = EXIT_OK
    with trio.CancelScope() as leaving:
        async with trio.open_nursery() as nursery:
            await nursery.start(_interrupt_on_ctrl_c, notebook, leaving, printer)
            executions = await notebook.run_all()
            for number, execution in enumerate(executions, 1):
                status = await _follow(notebook, execution, printer, f"[{number}/{len(executions)}]", timeout)
                if status != "done" and not _may_fail(notebook, execution, status):
                    code = EXIT_FAILED
            if code != EXIT_OK and notebook.kernel_status == "dead":
                printer.say(notebook.kernel.get("error", {}).get("message", "the kernel has ended"), "red")
            nursery.cancel_scope.cancel()
    return EXIT_FAILED if leaving.cancelled_caught else code


def _may_fail(notebook: Notebook, execution: Execution, status: str) -> bool:
    if status != "error" or notebook.kernel_status == "dead":
        return False
    try:
        return may_fail(notebook.cell(execution.cell_id).metadata)
    except KeyError:  # it was deleted
        return False


async def _follow(notebook: Notebook, execution: Execution, printer: Printer, title: str, timeout: float | None) -> str:
    if timeout is None:
        return await printer.follow(notebook, execution, title)
    await notebook.wait_for(lambda: execution.status != "queued")
    with trio.move_on_after(timeout):
        return await printer.follow(notebook, execution, title)
    printer.say(f"  interrupted: it took more than {timeout:g} s", "red")
    await notebook.interrupt()
    with trio.move_on_after(INTERRUPT_SECONDS) as stopping:
        await notebook.wait_for(lambda: execution.status in ENDED)
    if stopping.cancelled_caught:
        printer.say("  it takes no interrupt, and is left running", "red")
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


def _require_place(output: Path) -> None:
    """Finds out before all cells have run that their outputs could not be written."""
    folder = output.parent
    if output.exists() and not output.is_file():
        raise Unwritable(f"--output {output}: it is no file")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise Unwritable(f"--output {output}: there is no folder {folder} that can be written")


async def _write_copy(http: DaemonHttp, notebook: Notebook, output: Path) -> None:
    data = await http.read(f"/api/notebooks/{parse_automerge_url(notebook.url)}/file")
    try:
        await write_atomic(output, data)
    except FileUnwritable as error:
        raise Unwritable(f"--output {output}: {error.reason}") from error


async def watch_notebook(url: str, token: str, path: str) -> int:
    """Shows every execution that starts, until Ctrl-C; the exit code of `notebookd watch`."""
    printer = Printer()
    async with open_http(Address(url, "", token)) as http:
        found = await _find(http, path)
    async with open_notebook(url, token=token, notebook=found) as notebook:
        events = notebook.events()
        _warn_of_file(path, notebook)
        printer.say(f"watching {Path(path).name}: kernel {notebook.kernel_status}; Ctrl-C ends", "dim")
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_watch, notebook, events, printer)
                async for _ in signals:
                    nursery.cancel_scope.cancel()
                    break
    return EXIT_OK


async def _find(http: DaemonHttp, path: str) -> str:
    """The notebook's Automerge URL; it is opened where it is not, but for viewers, who open nothing."""
    try:
        return (await http.open_notebook(path, create=False, kernel_name=None))["notebook"]
    except RequestFailed as failed:
        if failed.reason != "forbidden":
            raise
        refused = failed
    for entry in (await http.read_json("/api/notebooks"))["notebooks"]:
        if f"/{path}".endswith(f"/{entry['path']}"):
            return str(entry["notebook"])
    why = "it is not open, and a viewer's token opens nothing"
    raise RequestFailed(refused.code, refused.reason, refused.data, why) from refused


async def _watch(notebook: Notebook, events: EventStream, printer: Printer) -> None:
    running = notebook.queue.get("executing")
    if isinstance(running, str) and (found := notebook.runtime["executions"].get(running)):
        await _follow_started(notebook, printer, running, found["cell_id"], found.get("execution_count"))
    async for event in events:
        params = event.params
        if event.method == "execution_started" and params["execution_id"] != running:
            await _follow_started(
                notebook, printer, params["execution_id"], params["cell_id"], params["execution_count"]
            )
        elif event.method == "kernel_error":
            printer.say(params["message"], "red")


async def _follow_started(
    notebook: Notebook, printer: Printer, execution_id: str, cell_id: str, count: int | None
) -> None:
    await printer.follow(notebook, Execution(notebook, execution_id, cell_id), f"[{count or '*'}]")


async def show_status(url: str, token: str, *, as_json: bool) -> int:
    """Prints the daemon and its notebooks; the exit code of `notebookd status`."""
    async with open_http(Address(url, "", token)) as http:
        status = await http.read_json("/api/status")
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
            table.add_row(
                Text(escaped(row["path"])),
                Text(escaped(kernel["name"])),
                kernel["status"],
                str(queued),
                str(row["peers"]),
            )
        console.print(table)
    return EXIT_OK


def _summary(status: dict[str, Any]) -> str:
    up = str(timedelta(seconds=round(status["uptime_seconds"])))
    memory = f", {status['memory_bytes'] / 2**20:.0f} MiB" if "memory_bytes" in status else ""
    return f"process {status['pid']}, up {up}{memory}, {status['peers']} peers"


def call(command: Callable[[], Awaitable[int]], url: str, path: str | None = None) -> int:
    """Runs a command; what its user can mend is one line on stderr and an exit code.

    Args:
        command: returns an exit code.
        url: the daemon's.
        path: the notebook's, as the user named it.
    """
    try:
        return _run(command)
    except RequestFailed as failed:
        return _refused(path or url, failed)
    except ConnectionLost as lost:
        complain(f"{lost}; `notebookd serve` starts a daemon")
        return EXIT_NO_DAEMON
    except (ProtocolError, SyncTimeout) as error:
        complain(f"{url}: {error}")
        return EXIT_FAILED
    except Unwritable as error:
        complain(str(error))
        return EXIT_USAGE


def _run(command: Callable[[], Awaitable[int]]) -> int:
    """Runs it; what nurseries wrapped comes out as it is, where it is one error alone."""
    try:
        return run_until_ctrl_c(command)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from error.__cause__  # noqa: ASYNC123  # the groups held nothing else


def _warn_of_file(path: str, notebook: Notebook) -> None:
    """Says what is wrong with the file: what runs is the notebook that the daemon has."""
    status = notebook.file.get("status")
    if status not in ("ready", "loading"):
        also = "; the daemon has it as it was, and reads it again once it is closed" if status == "conflict" else ""
        complain(f"warning: {path}: {notebook.file.get('error') or status}{also}")


def _refused(subject: str, failed: RequestFailed) -> int:
    complain(f"{subject}: {failed}")
    return (
        EXIT_USAGE if failed.reason in ("not_found", "outside_root", "invalid_notebook", "bad_request") else EXIT_FAILED
    )
