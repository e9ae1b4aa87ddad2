"""`make run`: the main job on a bundled notebook, with a real daemon and a real kernel, shown as it happens.

A peer opens the notebook and runs it; a second one joins late and says that it has everything. The daemon then stays, and
says how to join, until Ctrl-C; with ONCE=1, or when stdin is no terminal, it ends by itself.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib.resources import as_file, files
from pathlib import Path

import trio

from daemon.printing import Printer
from daemon.signals import cancel_on_signals
from sync.client import Notebook, open_notebook

NOTEBOOK = "tour.ipynb"


async def main() -> None:
    """Runs the demo, until it is over or a signal ends it; the daemon ends with it."""
    with trio.CancelScope() as scope:
        cancel_on_signals(scope, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        await _run()


async def _run() -> None:
    printer = Printer()
    with tempfile.TemporaryDirectory(prefix="notebookd-demo-") as folder:
        root = Path(folder) / "root"
        root.mkdir()
        with as_file(files("daemon") / "examples" / NOTEBOOK) as example:
            shutil.copy(example, root / NOTEBOOK)
        command = [sys.executable, "-m", "daemon", "serve", "--port", "0", "--root", str(root)]
        command += ["--state-dir", str(Path(folder) / "state")]
        log = (Path(folder) / "daemon.log").open("wb")
        with log:
            # A session of its own: Ctrl-C is for the demo, which then ends the daemon.
            process = await trio.lowlevel.open_process(
                command, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
            try:
                await _show(process, printer)
            except Exception:
                sys.stderr.write((Path(folder) / "daemon.log").read_text(errors="replace")[-4000:])
                raise
            finally:
                process.terminate()
                with trio.CancelScope(shield=True):
                    await process.wait()


async def _show(process: trio.Process, printer: Printer) -> None:
    info = json.loads(await _first_line(process))
    printer.say(f"notebookd listens on {info['url']}", "dim")
    async with open_notebook(info["url"], token=info["token"], path=NOTEBOOK) as notebook:
        printer.say(f"a peer opened {NOTEBOOK}: {len(notebook.cells)} cells; it runs them in a real kernel\n", "dim")
        executions = await notebook.run_all(stop_on_error=False)
        for number, execution in enumerate(executions, 1):
            await printer.follow(notebook, execution, f"[{number}/{len(executions)}]")
        await _join_late(info, notebook, printer)
        if os.environ.get("ONCE") == "1" or not sys.stdin.isatty():
            return
        printer.say("\nThe daemon stays. Join it from another terminal, in this folder:", "bold")
        here = f"--url {info['url']} --token={info['token']}"
        printer.say(f"  {_command()} watch {NOTEBOOK} {here}")
        printer.say(f"  {_command()} run {NOTEBOOK} {here}")
        printer.say("or, with the packages that docs/stock_client.mjs names beside it:")
        printer.say(f"  node docs/stock_client.mjs {info['sync_url']} {info['token']} {notebook.url}")
        printer.say("Ctrl-C ends it.", "dim")
        await trio.sleep_forever()


async def _join_late(info: dict[str, str], first: Notebook, printer: Printer) -> None:
    async with open_notebook(info["url"], token=info["token"], path=NOTEBOOK) as late:
        await late.confirm_sync()
        await first.confirm_sync()
        same = late.runtime == first.runtime and [c.source for c in late.cells] == [c.source for c in first.cells]
        outputs = sum(len(cell.outputs) for cell in late.cells)
        if not same:
            raise SystemExit("the late peer does not have what the first one has")
        printer.say(
            f"\na second peer joined late and has everything: {len(late.cells)} cells, {outputs} outputs", "green"
        )


def _command() -> str:
    """`notebookd`, as it can be called from here."""
    return shlex.quote(os.path.relpath(Path(sys.executable).with_name("notebookd")))


async def _first_line(process: trio.Process) -> bytes:
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        part = await process.stdout.receive_some()
        if not part:
            raise SystemExit("the daemon did not start")
        line += part
    return line


if __name__ == "__main__":
    try:
        trio.run(main)
    except KeyboardInterrupt:  # before it could hear signals
        sys.exit(0)
