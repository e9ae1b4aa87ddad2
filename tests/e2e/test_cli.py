"""The command line: what it prints, and its exit codes."""

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
import psutil
import pytest
import trio

from daemon.descriptors import WANTED
from tests.fakes.daemon_process import DaemonProcess, running_daemon
from tests.fakes.tcp_proxy import wire_to

TOUR = Path(__file__).parents[2] / "daemon" / "examples" / "tour.ipynb"


async def notebookd(
    *arguments: str, state_dir: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    options = ["--state-dir", str(state_dir)] if state_dir is not None else []
    command: Sequence[str] = [sys.executable, "-m", "daemon", *arguments, *options]
    env = {**os.environ, **(environment or {})}
    return await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False, env=env)


def write_notebook(path: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_code_cell(source, id=f"c{n}") for n, source in enumerate(sources)]
    path.write_text(nbformat.writes(nbformat.v4.new_notebook(cells=cells)))
    return path


async def test_a_cell_that_is_meant_to_raise_ends_no_run(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        path = write_notebook(daemon.root / "n.ipynb", "1 / 0", "print('goes on')")
        notebook = nbformat.read(path, as_version=4)
        notebook.cells[0].metadata["tags"] = ["raises-exception"]
        nbformat.write(notebook, path)
        done = await notebookd("run", str(path), state_dir=tmp_path / "state")
        assert (done.returncode, b"ZeroDivisionError" in done.stdout, b"  goes on\n" in done.stdout) == (0, True, True)


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


async def test_what_is_not_saved_stays_so_when_the_daemon_ends(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with running_daemon(tmp_path) as daemon:
        mine, kept, shared = (
            write_notebook(daemon.root / f"{name}.ipynb", "6 * 7") for name in ("mine", "kept", "shared")
        )
        before = mine.read_bytes()
        assert (await notebookd("run", str(mine), "--no-save", state_dir=state)).returncode == 0
        done = await notebookd("run", str(kept), "--output", str(tmp_path / "copy.ipynb"), state_dir=state)
        assert done.returncode == 0
        # One that others have open is theirs, and is saved in the end.
        await daemon.open("shared.ipynb")
        assert (await notebookd("run", str(shared), "--no-save", state_dir=state)).returncode == 0
        assert shared.read_bytes() == before
        open_ones = (await daemon.get("/api/notebooks")).json()["notebooks"]
        assert [entry["path"] for entry in open_ones] == ["shared.ipynb"]
    assert mine.read_bytes() == kept.read_bytes() == before
    assert nbformat.read(tmp_path / "copy.ipynb", 4).cells[0].outputs[0].data["text/plain"] == "42"
    assert nbformat.read(shared, 4).cells[0].outputs[0].data["text/plain"] == "42"


async def test_a_run_warns_where_its_file_was_changed_since_it_was_opened(tmp_path: Path) -> None:
    state, copy = tmp_path / "state", tmp_path / "copy.ipynb"
    async with running_daemon(tmp_path) as daemon:
        path = write_notebook(daemon.root / "a.ipynb", "print('version', 1)")
        done = await notebookd("run", str(path), state_dir=state)
        assert (done.returncode, done.stderr) == (0, b"")
        write_notebook(path, "print('version', 2)")
        theirs = path.read_bytes()
        # The kernel lives, with all that it holds.
        for options in (["--no-save"], ["--output", str(copy)]):
            done = await notebookd("run", str(path), *options, state_dir=state)
            assert done.returncode == 0
            assert b"version 1" in done.stdout
            assert done.stderr.startswith(b"notebookd: warning: ")
            assert b"changed by somebody else" in done.stderr
        command = [sys.executable, "-m", "daemon", "watch", str(path), "--state-dir", str(state)]
        watcher = await trio.lowlevel.open_process(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert watcher.stderr is not None
        assert (await watcher.stderr.receive_some()).startswith(b"notebookd: warning: ")
        watcher.terminate()
        await watcher.wait()
        done = await notebookd("run", str(path), state_dir=state)
        assert done.returncode == 1, "it is not saved"
        assert path.read_bytes() == theirs
        # Without a kernel nothing is lost when it is read again.
        mine = write_notebook(daemon.root / "b.ipynb", "print('version', 1)")
        opened = await daemon.open("b.ipynb")
        write_notebook(mine, "print('version', 2)")
        done = await notebookd("run", str(mine), state_dir=state)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"version 2" in done.stdout
        assert opened["id"] not in {entry["id"] for entry in (await daemon.get("/api/notebooks")).json()["notebooks"]}
    # Its outputs were in no file.
    [kept] = daemon.root.glob("a.unsaved-*.ipynb")
    assert nbformat.read(kept, 4).cells[0].outputs[0].text == "version 1\n"
    assert path.read_bytes() == theirs
    [line] = [line for line in daemon.stderr.decode().splitlines() if "not saved at the end" in line]
    assert kept.name in line
    assert b"Traceback" not in daemon.stderr


async def test_a_cell_that_takes_too_long_is_interrupted(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        path = write_notebook(daemon.root / "slow.ipynb", "import time; any(time.sleep(0.1) for _ in range(6_000))")
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


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::1", "localhost"])
async def test_wherever_it_listens_it_says_where_it_is_found(host: str, tmp_path: Path) -> None:
    if ":" in host:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("this machine has no IPv6")
    async with running_daemon(tmp_path, "--host", host):
        shown = await notebookd("status", state_dir=tmp_path / "state")
        assert shown.returncode == 0, shown.stderr


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
    [
        ["nosuch"],
        ["run"],
        ["run", "x.ipynb", "--timeout", "0"],
        ["run", "x.ipynb", "--timeout", "nan"],
        ["run", "x.ipynb", "--url", "localhost:8889", "--token", "t"],
        ["run", "x.ipynb", "--url", "http://127.0.0.1:1"],
        ["run", "x.ipynb", "--url", "http://127.0.0.1:1", "--token", "é"],
        ["watch", "x.ipynb", "--url", "ftp://127.0.0.1:1", "--token", "t"],
        ["serve", "--port", "many"],
        ["serve", "--port", "-1"],
        ["serve", "--port", "65536"],
        ["serve", "--root", "/nonexistent"],
        ["serve", "--token", ""],
        ["serve", "--token", "two words"],
        ["serve", "--token-file", "/nonexistent"],
        ["serve", "--port", "0", "--token", "same", "--viewer-token", "same"],
        ["serve", "--port", "0", "--allow-origin", "*"],
        ["serve", "--port", "0", "--state-dir", "/dev/null"],
    ],
)
async def test_wrong_usage_is_2_and_a_few_words(arguments: list[str], tmp_path: Path) -> None:
    done = await notebookd(*arguments, environment={"XDG_STATE_HOME": str(tmp_path)})

    assert done.returncode == 2, done.stderr
    assert done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["token", "viewer-token"])
async def test_a_token_file_that_is_no_text_is_wrong_usage(name: str, tmp_path: Path) -> None:
    file = tmp_path / "bytes"
    file.write_bytes(b"\xff\xfe")
    done = await notebookd("serve", "--port", "0", f"--{name}-file", str(file), state_dir=tmp_path / "state")
    assert (done.returncode, done.stderr.decode()) == (2, f"notebookd: --{name}-file {file} is no text\n")


async def test_a_state_directory_that_cannot_be_used_is_told_as_that(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    serve = await notebookd("serve", "--port", "0", state_dir=tmp_path / "file")
    status = await notebookd("status", state_dir=tmp_path / "file")

    assert (serve.returncode, status.returncode) == (2, 1)
    assert b"the state directory can't be used: File exists" in serve.stderr
    assert b"can't be read: Not a directory" in status.stderr


async def test_help_says_what_each_option_is_for() -> None:
    serve = (await notebookd("serve", "--help")).stdout.decode()
    run = (await notebookd("run", "--help")).stdout.decode()

    for what in ("Address to listen on", "any free one", "A further name in the Host header", "Where blobs"):
        assert what in serve
    assert "Seconds that each cell may take" in run
    assert "--empty-" not in serve
    assert "--no-no-" not in run


async def test_a_notebook_is_found_under_the_root_from_anywhere(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        (daemon.root / "folder é").mkdir()
        write_notebook(daemon.root / "folder é" / "n b.ipynb", "6 * 7")
        done = await notebookd("run", "folder é/n b.ipynb", state_dir=tmp_path / "state")

        assert done.returncode == 0, done.stderr
        assert b"  42\n" in done.stdout


async def test_proxies_of_the_environment_hear_nothing(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        path = write_notebook(daemon.root / "n.ipynb", "1")
        nobody = {"http_proxy": "http://127.0.0.1:9", "all_proxy": "http://127.0.0.1:9"}
        for command in (["status"], ["run", str(path), "--output", str(tmp_path / "copy.ipynb")]):
            done = await notebookd(*command, state_dir=tmp_path / "state", environment=nobody)
            assert done.returncode == 0, done.stderr


async def test_an_output_that_cannot_be_written_is_told_before_anything_runs(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        path = write_notebook(daemon.root / "n.ipynb", "1")
        for output in (tmp_path / "nosuch" / "copy.ipynb", tmp_path):
            done = await notebookd("run", str(path), "--output", str(output), state_dir=tmp_path / "state")
            assert done.returncode == 2
            assert done.stderr.startswith(b"notebookd: --output ")
            assert not done.stdout


@pytest.mark.parametrize("failing", [False, True])
async def test_whoever_reads_a_run_may_stop_reading_and_it_is_saved_all_the_same(failing: bool, tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        gate = tmp_path / "gate"
        os.mkfifo(gate)
        path = write_notebook(
            daemon.root / "n.ipynb",
            f"print('begun', flush=True)\nopen({str(gate)!r}).read()\nprint('on')",
            "1 / 0" if failing else "'last'",
        )
        process = await start_run(daemon, path, tmp_path)
        assert process.stdout is not None
        assert process.stderr is not None
        await process.stdout.aclose()
        await trio.Path(gate).write_text("")

        assert await process.wait() == (1 if failing else 0)
        said = await process.stderr.receive_some()
        assert said == b"notebookd: stdout can't be written: Broken pipe; the run goes on unseen\n"
        saved = nbformat.read(path, 4)
        assert saved.cells[0].outputs[0].text == "begun\non\n"
        assert saved.cells[1].outputs[0].output_type == ("error" if failing else "execute_result")


FULL = b"notebookd: stdout can't be written: No space left on device"


@pytest.mark.parametrize(
    ("where", "run_says", "others_exit", "others_say"),
    [
        (">&-", b"", 0, b""),
        ("<&- >&- 2>&-", b"", 0, b""),
        ("| true", b"notebookd: stdout can't be written: Broken pipe; the run goes on unseen\n", 1, b""),
        pytest.param(
            *(">/dev/full", FULL + b"; the run goes on unseen\n", 1, FULL + b"\n"),
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux"),
        ),
    ],
)
async def test_without_a_stdout_a_run_is_saved_and_nothing_is_a_traceback(
    where: str, run_says: bytes, others_exit: int, others_say: bytes, tmp_path: Path
) -> None:
    async with running_daemon(tmp_path) as daemon:
        path = write_notebook(daemon.root / "n.ipynb", "print('saved')")
        here = ("--state-dir", str(tmp_path / "state"))
        assert await ended_with(where, "run", str(path), *here) == (0, run_says)
        assert nbformat.read(path, 4).cells[0].outputs[0].text == "saved\n"
        for command in (("status", *here), ("status", "--json", *here), ("run", "--help")):
            assert await ended_with(where, *command) == (others_exit, others_say)


async def ended_with(where: str, *arguments: str) -> tuple[int, bytes]:
    """The exit code, and what came on stderr, of a command with its stdout there."""
    shell, stdout = f'exec "$@" {where}', subprocess.DEVNULL
    reader, writer = os.pipe()
    os.close(reader)
    if where.startswith("|"):  # to somebody who has gone before anything is written
        shell, stdout = 'exec "$@"', writer
    command = ["sh", "-c", shell, "sh", sys.executable, "-m", "daemon", *arguments]
    done = await trio.run_process(command, stdout=stdout, capture_stderr=True, check=False)
    os.close(writer)
    return done.returncode, done.stderr


async def test_the_daemon_may_open_as_many_files_as_the_system_gives(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        async with running_daemon(tmp_path) as daemon:
            assert psutil.Process(daemon.process.pid).rlimit(psutil.RLIMIT_NOFILE) == (min(WANTED, hard), hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_ctrl_c_ends_the_daemon_with_0(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        daemon.signal(signal.SIGINT)
        await daemon.process.wait()
        assert daemon.process.returncode == 0


async def test_a_daemon_serves_also_where_nobody_reads_what_it_prints(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "daemon", "serve", "--port", "0", "--state-dir", str(tmp_path)]
    unread = await trio.lowlevel.open_process(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert unread.stdout is not None
    await unread.stdout.aclose()
    await read_until(unread, b"listening", unread.stderr)
    assert (await notebookd("status", state_dir=tmp_path)).returncode == 0
    unread.terminate()
    assert await unread.wait() == 0

    closed = ["sh", "-c", 'exec "$@" 2>&-', "sh", *line]
    silent = await trio.lowlevel.open_process(closed, stdout=subprocess.PIPE)
    await read_until(silent, b"sync_url")
    silent.terminate()
    assert await silent.wait() == 0


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


async def test_the_first_ctrl_c_interrupts(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        path = write_notebook(
            daemon.root / "n.ipynb",
            "import time\nprint('begun', flush=True)\nany(time.sleep(0.1) for _ in range(6_000))",
        )
        runner = await start_run(daemon, path, tmp_path)
        os.kill(runner.pid, signal.SIGINT)
        assert runner.stdout is not None
        rest = bytearray()
        async for part in runner.stdout:
            rest += part
        assert await runner.wait() == 1
        assert b"KeyboardInterrupt" in rest


async def test_ctrl_c_while_nobody_answers_is_130_and_no_traceback(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        process = await start("status", None, tmp_path, "--url", url, "--token", "t")
        await trio.lowlevel.wait_readable(mute)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
        assert process.stderr is not None
        assert await process.stderr.receive_some() == b""


STUBBORN = """\
import time
print('begun', flush=True)
try:
    time.sleep(600)
except KeyboardInterrupt:
    print('not me', flush=True)
    time.sleep(600)
"""


async def test_a_cell_that_takes_too_long_and_no_interrupt_holds_up_nobody(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        path = write_notebook(daemon.root / "n.ipynb", STUBBORN, "2")
        done = await notebookd("run", str(path), "--timeout", "0.5", state_dir=tmp_path / "state")

        assert done.returncode == 1
        assert done.stdout.endswith(b"it takes no interrupt, and is left running\n[2/2] 2\n  did not run\n"), (
            done.stdout
        )


async def test_the_second_ctrl_c_leaves_it_running(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        runner = await start_run(daemon, write_notebook(daemon.root / "n.ipynb", STUBBORN), tmp_path)
        os.kill(runner.pid, signal.SIGINT)
        await read_until(runner, b"not me")
        os.kill(runner.pid, signal.SIGINT)
        assert await runner.wait() == 1
        status = (await daemon.get("/api/status")).json()
        assert status["notebooks"][0]["queue"]["executing"] is not None


async def test_a_viewer_watches_what_is_open(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, "--viewer-token", "look") as daemon:
        path = write_notebook(
            daemon.root / "n.ipynb",
            "import time\nprint('begun', flush=True)\nany(time.sleep(0.1) for _ in range(6_000))",
        )
        for named in ("n.ipynb", str(path)):
            refused = await notebookd("watch", named, "--token", "look", state_dir=tmp_path / "state")
            assert (refused.returncode, b"it is not open" in refused.stderr) == (1, True)
        runner = await start_run(daemon, path, tmp_path)
        for named in ("n.ipynb", str(path)):
            watcher = await start("watch", Path(named), tmp_path, "--token", "look")
            await read_until(watcher, b"  begun\n")
            watcher.send_signal(signal.SIGINT)
            assert await watcher.wait() == 0
        runner.terminate()
        await runner.wait()


async def test_a_token_may_begin_with_a_dash(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, "--token=-t") as daemon:
        path = write_notebook(daemon.root / "n.ipynb", "print('run')")
        done = await notebookd("run", str(path), "--url", daemon.url, "--token=-t")
        assert (done.returncode, daemon.token) == (0, "-t"), done.stderr
        assert b"  run\n" in done.stdout


async def test_a_watch_that_begins_in_the_middle_shows_what_runs_and_ends_with_the_daemon(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        path = write_notebook(
            daemon.root / "n.ipynb",
            "import time\nprint('begun', flush=True)\nany(time.sleep(0.1) for _ in range(6_000))",
        )
        runner = await start_run(daemon, path, tmp_path)
        watcher = await start("watch", path, tmp_path)
        await read_until(watcher, b"  begun\n")
        assert (await notebookd("stop", state_dir=tmp_path / "state")).returncode == 0
        assert await watcher.wait() == 4
        assert watcher.stderr is not None
        said = bytes(await watcher.stderr.receive_some())
        assert said.count(b"\n") == 1, said
        assert said.startswith(b"notebookd: ")
        assert await runner.wait() == 1


async def test_what_a_run_waits_for_or_died_of_is_said(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        asking = write_notebook(daemon.root / "asking.ipynb", "input('who? ')")
        process = await start("run", asking, tmp_path)
        await read_until(process, b"it waits for input: who? ")
        os.kill(process.pid, signal.SIGINT)
        assert await process.wait() == 1

        dying = write_notebook(daemon.root / "dying.ipynb", "import os; os._exit(3)", "1")
        done = await notebookd("run", str(dying), state_dir=tmp_path / "state")
        assert done.returncode == 1
        assert done.stdout.endswith(b"did not run\nthe kernel died (exit code 3); execute a cell to start it again\n")


async def test_a_lost_connection_is_said_and_the_run_goes_on(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon, wire_to(daemon.url) as wire:
        gate = tmp_path / "gate"
        os.mkfifo(gate)
        path = write_notebook(daemon.root / "n.ipynb", f"print('begun', flush=True)\nopen({str(gate)!r}).read()")
        here = ["--url", wire.url, "--token", daemon.token, "--state-dir", str(tmp_path)]
        command = [sys.executable, "-m", "daemon", "run", str(path), *here]
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
        await read_until(process, b"  begun\n")
        wire.cut()
        await read_until(process, b"connection lost; trying to get it back\n")
        wire.mend()
        await read_until(process, b"connected again\n")
        await trio.Path(gate).write_text("")
        await read_until(process, b"  ok after")
        assert await process.wait() == 0


async def start_run(daemon: DaemonProcess, path: Path, tmp_path: Path) -> trio.Process:
    process = await start("run", path, tmp_path)
    await read_until(process, b"  begun\n")
    return process


async def start(command: str, path: Path | None, tmp_path: Path, *options: str) -> trio.Process:
    paths = [] if path is None else [str(path)]
    line = [sys.executable, "-m", "daemon", command, *paths, "--state-dir", str(tmp_path / "state"), *options]
    return await trio.lowlevel.open_process(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


async def read_until(process: trio.Process, wanted: bytes, stream: trio.abc.ReceiveStream | None = None) -> None:
    stream = stream or process.stdout
    assert stream is not None
    seen = bytearray()
    while wanted not in seen:
        part = await stream.receive_some()
        assert part, seen.decode()
        seen += part
