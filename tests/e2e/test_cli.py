"""The command line: what it prints, and its exit codes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
import pytest
import trio

from tests.fakes.daemon_process import DaemonProcess, running_daemon

TOUR = Path(__file__).parents[2] / "daemon" / "examples" / "tour.ipynb"


async def notebookd(*arguments: str, state_dir: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    options = ["--state-dir", str(state_dir)] if state_dir is not None else []
    command: Sequence[str] = [sys.executable, "-m", "daemon", *arguments, *options]
    return await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)


def write_notebook(path: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_code_cell(source, id=f"c{n}") for n, source in enumerate(sources)]
    path.write_text(nbformat.writes(nbformat.v4.new_notebook(cells=cells)))
    return path


async def test_run_shows_the_outputs_saves_them_and_says_whether_all_went_well(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        state = tmp_path / "state"
        good = write_notebook(daemon.root / "good.ipynb", "print('first')", "6 * 7")
        bad = write_notebook(daemon.root / "bad.ipynb", "1 / 0", "print('not reached')")

        done = await notebookd("run", str(good), state_dir=state)
        assert done.returncode == 0, done.stderr
        assert b"  first\n" in done.stdout
        assert b"  42\n" in done.stdout
        saved = nbformat.read(good, 4)
        nbformat.validate(saved)
        assert saved.cells[1].outputs[0].data["text/plain"] == "42"

        failed = await notebookd("run", str(bad), "--no-save", state_dir=state)
        assert failed.returncode == 1
        assert b"ZeroDivisionError" in failed.stdout
        assert b"did not run" in failed.stdout
        assert nbformat.read(bad, 4).cells[0].outputs == []

        copy = tmp_path / "copy.ipynb"
        await notebookd("run", str(bad), "--output", str(copy), state_dir=state)
        assert nbformat.read(copy, 4).cells[0].outputs[0].ename == "ZeroDivisionError"
        assert nbformat.read(bad, 4).cells[0].outputs == []


async def test_a_cell_that_takes_too_long_is_interrupted(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        path = write_notebook(daemon.root / "slow.ipynb", "import time; time.sleep(600)")
        slow = await notebookd("run", str(path), "--timeout", "0.5", state_dir=tmp_path / "state")

        assert slow.returncode == 1
        assert b"it took more than 0.5 s" in slow.stdout


async def test_without_a_kernel_run_ends_with_3(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        path = write_notebook(daemon.root / "n.ipynb", "1")
        notebook = json.loads(path.read_text())
        notebook["metadata"]["kernelspec"] = {"name": "nosuch", "display_name": "none"}
        path.write_text(json.dumps(notebook))

        assert (await notebookd("run", str(path), state_dir=tmp_path / "state")).returncode == 3


async def test_status_and_stop(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        shutil.copy(TOUR, daemon.root / "tour.ipynb")
        await daemon.open("tour.ipynb")
        state = tmp_path / "state"

        shown = await notebookd("status", state_dir=state)
        assert b"tour.ipynb" in shown.stdout
        told = json.loads((await notebookd("status", "--json", state_dir=state)).stdout)
        assert told["notebooks"][0]["kernel"]["status"] == "not_started"
        announced = state / "daemon.json"
        assert announced.stat().st_mode & 0o777 == 0o600
        stopped = await notebookd("stop", state_dir=state)
        assert stopped.returncode == 0, stopped.stderr
        await daemon.process.wait()
        assert daemon.process.returncode == 0


async def test_no_daemon_is_4_and_says_how_to_start_one(tmp_path: Path) -> None:
    for command in (["status"], ["stop"], ["run", "x.ipynb"], ["watch", "x.ipynb"]):
        done = await notebookd(*command, state_dir=tmp_path)
        assert done.returncode == 4
        assert b"notebookd serve" in done.stderr


async def test_a_second_daemon_on_the_state_directory_is_4(tmp_path: Path) -> None:
    async with running_daemon(tmp_path):
        second = await notebookd("serve", "--port", "0", state_dir=tmp_path / "state")

    assert second.returncode == 4
    assert b"--state-dir" in second.stderr


async def test_a_port_in_use_is_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = await notebookd("serve", "--port", str(taken.getsockname()[1]), state_dir=tmp_path)

    assert done.returncode == 2
    assert b"can't serve" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["nosuch"], ["serve", "--port", "many"], ["run"], ["serve", "--root", "/nonexistent"], ["serve", "--token", ""]],
)
async def test_wrong_usage_is_2(arguments: list[str], tmp_path: Path) -> None:
    done = await notebookd(*arguments)

    assert done.returncode == 2, done.stderr
    assert done.stderr or done.stdout


async def test_ctrl_c_ends_the_daemon_with_0(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        daemon.signal(signal.SIGINT)
        await daemon.process.wait()
        assert daemon.process.returncode == 0


async def test_watch_shows_what_another_runs(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        path = write_notebook(daemon.root / "n.ipynb", "print('seen by the watcher')")
        command = [sys.executable, "-m", "daemon", "watch", str(path), "--state-dir", str(tmp_path / "state")]
        watcher = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
        assert watcher.stdout is not None
        seen = bytearray(await watcher.stdout.receive_some())
        assert b"watching n.ipynb" in seen
        assert (await notebookd("run", str(path), state_dir=tmp_path / "state")).returncode == 0
        while b"ok after" not in seen:
            seen += await watcher.stdout.receive_some()
        assert b"  seen by the watcher\n" in seen
        os.kill(watcher.pid, signal.SIGINT)
        assert await watcher.wait() == 0


async def test_the_first_ctrl_c_interrupts_and_the_second_leaves(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        path = write_notebook(daemon.root / "n.ipynb", "import time\nprint('begun', flush=True)\ntime.sleep(600)")
        runner = await start_run(daemon, path, tmp_path)
        os.kill(runner.pid, signal.SIGINT)
        assert runner.stdout is not None
        rest = bytearray()
        async for part in runner.stdout:
            rest += part
        assert await runner.wait() == 1
        assert b"KeyboardInterrupt" in rest


async def start_run(daemon: DaemonProcess, path: Path, tmp_path: Path) -> trio.Process:
    command = [sys.executable, "-m", "daemon", "run", str(path), "--state-dir", str(tmp_path / "state")]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    seen = bytearray()
    while b"begun" not in seen:
        part = await process.stdout.receive_some()
        assert part, daemon.stderr.decode()
        seen += part
    return process
