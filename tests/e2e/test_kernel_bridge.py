"""run_kernel against real kernels: ipykernel, and bash_kernel where another kernel's ways matter."""

import json
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import psutil
import pytest
import trio
from jupyter_client.kernelspec import KernelSpecManager

from kernel_bridge import Kernel, KernelGone, KernelLaunchFailed, KernelSpec, NoSuchKernel, SinkFailed, run_kernel
from kernel_bridge.core.messages import (
    Error,
    ExecuteInput,
    ExecuteResult,
    InputRequest,
    KernelMessage,
    Oversize,
    Reply,
    Status,
    Stream,
)
from kernel_bridge.core.trace import encode_entry, read_trace, replay
from kernel_bridge.core.wire import MessageEncoder, Signer
from kernel_bridge.kernelspecs import find_kernelspec, list_kernelspecs
from kernel_bridge.zmq_socket import ZmqContext
from tests.e2e.kernels import EXECUTE, Life, RecordingSink, launched, reply_of, text_of
from tests.record_trace import record


@pytest.fixture
async def python(jupyter_home: Path) -> AsyncIterator[Life]:
    with trio.fail_after(120):
        async with launched("python3", jupyter_home) as life:
            yield life


def kernel_that_runs(code: str, *arguments: str) -> KernelSpec:
    return KernelSpec("broken", "Broken", "none", (sys.executable, "-c", code, *arguments))


async def test_one_plus_one_comes_as_busy_input_result_reply_and_idle(python: Life) -> None:
    messages = await python.execute("1+1")

    iopub = [message for message in messages if message.channel == "iopub"]
    assert [message.header.msg_type for message in iopub] == ["status", "execute_input", "execute_result", "status"]
    assert iopub[1].content == ExecuteInput(code="1+1", execution_count=1)
    assert isinstance(iopub[2].content, ExecuteResult)
    assert iopub[2].content.data == {"text/plain": "2"}
    assert (reply_of(messages).status, reply_of(messages).execution_count) == ("ok", 1)
    assert all(message.parent.session == python.kernel.session for message in messages)
    assert python.kernel.info.language == "python"


async def test_the_bridges_own_requests_stay_out_of_sight(python: Life) -> None:
    before = await python.execute("sorted(n for n in dir() if 'lift' in n or 'thread' in n or 'queue' in n)")

    assert reply_of(before).execution_count == 1
    [result] = [message.content for message in before if isinstance(message.content, ExecuteResult)]
    assert result.data == {"text/plain": "[]"}
    assert {message.parent.msg_type for message in python.sink.messages} <= {"", "execute_request"}
    assert python.kernel.statistics().send_queue_lifted is True


async def test_ipykernel_is_reached_by_sockets_in_a_private_directory(python: Life, jupyter_home: Path) -> None:
    [directory] = (jupyter_home / "k").iterdir()

    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "connection.json").stat().st_mode & 0o777 == 0o600
    assert (directory / "s-1").is_socket()

    python.kernel.kill()
    await python.over.wait()
    assert not directory.exists()
    assert (python.exit.signal, python.exit.returncode, python.exit.expected) == (9, None, True)


async def test_the_output_of_the_first_cell_is_never_lost(jupyter_home: Path) -> None:
    with trio.fail_after(120):
        for _ in range(3):
            async with launched("python3", jupyter_home) as life:
                assert text_of(await life.execute("print('first', flush=True)")) == "first\n"


async def test_ten_thousand_flushed_prints_are_ten_thousand_lines(python: Life) -> None:
    messages = await python.execute("for i in range(10_000): print(i, flush=True)")

    assert text_of(messages) == "".join(f"{i}\n" for i in range(10_000))
    assert max(python.sink.batches) <= 256


async def test_a_loop_that_was_blocked_for_seconds_loses_nothing(python: Life) -> None:
    msg_id = python.start("for i in range(20_000): print(i, flush=True)")
    await python.sink.wait_until(lambda messages: any(isinstance(message.content, Stream) for message in messages))
    time.sleep(3)  # noqa: ASYNC251  # the loop is blocked on purpose: the kernel must not drop what we do not read

    assert text_of(await python.finished(msg_id)) == "".join(f"{i}\n" for i in range(20_000))


async def test_a_new_connection_to_iopub_gets_an_unlimited_queue_as_well(
    python: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    lifted_again = trio.Event()
    lift = Kernel.lift_send_queue

    def lift_and_tell(kernel: Kernel) -> None:
        lift(kernel)
        lifted_again.set()

    monkeypatch.setattr(Kernel, "lift_send_queue", lift_and_tell)
    # A subscriber cannot be cut off from outside, but the kernel can close its end and listen again.
    python.start(
        "thread = get_ipython().kernel.iopub_thread\n"
        "def cut():\n"
        "    at = thread.socket.LAST_ENDPOINT\n"
        "    thread.socket.unbind(at); thread.socket.sndhwm = 1000; thread.socket.bind(at)\n"
        "thread.schedule(cut)"
    )
    await lifted_again.wait()

    assert text_of(await python.execute("print(thread.socket.sndhwm)")) == "0\n"
    assert python.kernel.statistics().reconnections == 1
    assert python.kernel.statistics().connected


async def test_an_interrupt_ends_a_sleep_with_keyboard_interrupt(python: Life) -> None:
    msg_id = python.start("print('asleep', flush=True)\nimport time; any(time.sleep(0.1) for _ in range(600))")
    await python.sink.wait_until(lambda messages: text_of(messages) == "asleep\n")

    await python.kernel.interrupt()

    messages = await python.finished(msg_id)
    assert (reply_of(messages).status, reply_of(messages).ename) == ("error", "KeyboardInterrupt")
    assert any(isinstance(message.content, Error) for message in messages)
    assert reply_of(await python.execute("1")).status == "ok"


async def test_a_kernel_told_to_be_interrupted_by_message_is(jupyter_home: Path) -> None:
    spec = find_kernelspec("python3")
    spec = KernelSpec(spec.name, spec.display_name, spec.language, spec.argv, interrupt_mode="message")
    with trio.fail_after(120):
        async with launched(spec, jupyter_home) as life:
            msg_id = life.start("print('asleep', flush=True)\nimport time; any(time.sleep(0.1) for _ in range(600))")
            await life.sink.wait_until(lambda messages: text_of(messages) == "asleep\n")
            await life.kernel.interrupt()
            assert reply_of(await life.finished(msg_id)).ename == "KeyboardInterrupt"


async def test_a_death_is_told_with_its_code_its_last_words_and_its_last_output(python: Life) -> None:
    msg_id = python.start(
        "import os, sys, time\n"
        "for i in range(500): print(i, flush=True)\n"
        "sys.__stderr__.write('last words\\n'); sys.__stderr__.flush()\n"
        # What libzmq has not handed to the socket dies with the process; this gives it time.
        "time.sleep(0.5)\n"
        "os._exit(7)"
    )
    await trio.testing.wait_all_tasks_blocked()
    time.sleep(2)  # noqa: ASYNC251  # the process is dead before its output is read
    await python.over.wait()

    assert (python.exit.returncode, python.exit.signal, python.exit.expected) == (7, None, False)
    assert "last words" in python.exit.stderr_tail
    assert text_of(python.sink.of(msg_id)) == "".join(f"{i}\n" for i in range(500))
    with pytest.raises(KernelGone):
        python.start("1")
    with pytest.raises(KernelGone):
        await python.kernel.interrupt()
    await python.kernel.shutdown()


async def test_who_waits_for_a_reply_hears_of_the_death(python: Life) -> None:
    python.start("print('asleep', flush=True)\nimport time; time.sleep(60)")
    await python.sink.wait_until(lambda messages: text_of(messages) == "asleep\n")
    raised = trio.Event()

    async def ask() -> None:
        with pytest.raises(KernelGone):
            await python.kernel.request("shell", "comm_info_request", {})
        raised.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        python.kernel.kill()
        await raised.wait()


async def test_a_kernel_that_dies_at_its_start_says_why(jupyter_home: Path) -> None:
    sink = RecordingSink()
    with trio.fail_after(60), pytest.raises(KernelLaunchFailed) as caught:
        await run_kernel(
            kernel_that_runs("import sys; sys.exit('no such module: plotting')"),
            sink,
            cwd=jupyter_home,
            env=os.environ,
            runtime_dir=jupyter_home / "k",
        )

    assert "exit code 1" in caught.value.message
    assert caught.value.stderr == "no such module: plotting\n"
    assert list((jupyter_home / "k").iterdir()) == []


async def test_a_kernel_that_never_answers_is_killed_in_time(jupyter_home: Path) -> None:
    with trio.fail_after(60), pytest.raises(KernelLaunchFailed, match=r"did not answer within 0\.5 s"):
        await run_kernel(
            kernel_that_runs("import time; time.sleep(600)"),
            RecordingSink(),
            cwd=jupyter_home,
            env=os.environ,
            runtime_dir=jupyter_home / "k",
            ready_timeout=0.5,
        )


@pytest.mark.parametrize(
    ("spec", "folder", "why"),
    [
        (KernelSpec("gone", "Gone", "", ("/nonexistent/kernel",)), ".", "cannot start"),
        (KernelSpec("here", "Here", "", (sys.executable, "-c", "")), "nowhere", "cannot start"),
        (KernelSpec("empty", "Empty", "", ()), ".", "no command"),
        (
            KernelSpec("far", "Far", "", ("k",), metadata={"kernel_provisioner": {"provisioner_name": "k8s"}}),
            ".",
            "provisioner",
        ),
    ],
)
async def test_a_kernel_that_cannot_be_started_says_why(
    jupyter_home: Path, spec: KernelSpec, folder: str, why: str
) -> None:
    with pytest.raises(KernelLaunchFailed, match=why):
        await run_kernel(
            spec, RecordingSink(), cwd=jupyter_home / folder, env=os.environ, runtime_dir=jupyter_home / "k"
        )


async def test_a_port_that_was_taken_meanwhile_is_not_the_end(jupyter_home: Path) -> None:
    # Fails twice as a kernel does whose port is taken, and is ipykernel the third time.
    code = (
        "import pathlib, runpy, sys\n"
        "tries = pathlib.Path('tries'); n = len(tries.read_text()) if tries.exists() else 0\n"
        "tries.write_text('x' * (n + 1))\n"
        "if n < 2: sys.exit('zmq.error.ZMQError: Address already in use')\n"
        "runpy.run_module('ipy' + 'kernel_launcher', run_name='__main__', alter_sys=True)\n"
    )
    with trio.fail_after(120):
        async with launched(kernel_that_runs(code, "-f", "{connection_file}"), jupyter_home) as life:
            assert not list((jupyter_home / "k").glob("*/s-1"))
            assert reply_of(await life.execute("1")).status == "ok"
    assert (jupyter_home / "tries").read_text() == "xxx"


async def test_what_a_child_prints_by_the_hundred_kilobytes_does_not_hang_the_kernel(python: Life) -> None:
    messages = await python.execute(
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'print(\"x\" * 400_000)']).returncode"
    )

    assert reply_of(messages).status == "ok"
    assert python.kernel.statistics().stdout_bytes >= 400_000


async def test_input_is_asked_for_and_answered_on_stdin(python: Life) -> None:
    msg_id = python.start("name = input('name? ')\nprint('hello', name)")
    await python.sink.wait_until(lambda messages: any(message.channel == "stdin" for message in messages))
    [request] = [message for message in python.sink.messages if message.channel == "stdin"]
    assert request.content == InputRequest(prompt="name? ", password=False)
    assert request.parent.msg_id == msg_id

    python.kernel.send("stdin", "input_reply", {"value": "Ada"}, parent=request.header)

    assert text_of(await python.finished(msg_id)) == "hello Ada\n"


async def test_side_requests_are_answered_while_a_cell_runs(python: Life) -> None:
    await python.execute("import threading; held = threading.Event(); colours = 1")
    msg_id = python.start("print('in', flush=True); held.wait()")
    await python.sink.wait_until(lambda messages: text_of(messages) == "in\n")

    completed = await python.kernel.request("shell", "complete_request", {"code": "colo", "cursor_pos": 4})
    inspected = await python.kernel.request(
        "shell", "inspect_request", {"code": "colours", "cursor_pos": 7, "detail_level": 0}
    )
    complete = await python.kernel.request("shell", "is_complete_request", {"code": "1 +"})
    history = await python.kernel.request(
        "shell", "history_request", {"hist_access_type": "tail", "n": 2, "raw": True, "output": False}
    )

    assert isinstance(completed.content, Reply)
    assert "colours" in completed.content.raw["matches"]
    assert isinstance(inspected.content, Reply)
    assert inspected.content.raw["found"] is True
    assert isinstance(complete.content, Reply)
    assert complete.content.status == "invalid" or complete.content.status == "incomplete"
    assert isinstance(history.content, Reply)
    assert len(history.content.raw["history"]) == 2
    assert not any(isinstance(message.content, Reply) for message in python.sink.messages)
    await python.kernel.interrupt()
    assert reply_of(await python.finished(msg_id)).ename == "KeyboardInterrupt"


async def test_requests_at_once_share_one_subshell_and_a_cancelled_one_does_no_harm(python: Life) -> None:
    answered: list[KernelMessage] = []

    async def ask() -> None:
        answered.append(await python.kernel.request("shell", "is_complete_request", {"code": "1"}))

    with trio.CancelScope() as given_up:
        given_up.cancel()
        await ask()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
    subshells = await python.kernel.request("control", "list_subshell_request", {})

    assert len({message.parent.msg_id for message in answered}) == 3
    assert isinstance(subshells.content, Reply)
    assert len(subshells.content.raw["subshell_id"]) == 1


async def test_a_subshell_that_was_deleted_is_done_without(python: Life) -> None:
    await python.kernel.request("shell", "complete_request", {"code": "a", "cursor_pos": 1})
    subshells = await python.kernel.request("control", "list_subshell_request", {})
    assert isinstance(subshells.content, Reply)
    [subshell_id] = subshells.content.raw["subshell_id"]
    await python.kernel.request("control", "delete_subshell_request", {"subshell_id": subshell_id})

    reply = await python.kernel.request("shell", "complete_request", {"code": "impor", "cursor_pos": 5})

    assert isinstance(reply.content, Reply)
    assert reply.content.status == "ok"


async def test_what_another_client_executes_is_seen_and_told_by_its_session(python: Life, jupyter_home: Path) -> None:
    [directory] = (jupyter_home / "k").iterdir()
    key = json.loads((directory / "connection.json").read_text())["key"]
    stranger = MessageEncoder("stranger", "someone", Signer(key.encode()))
    context = ZmqContext()
    socket = context.connect_dealer(f"ipc://{directory}/s-1")
    socket.send(
        stranger.encode(
            "execute_request",
            {**EXECUTE, "code": "print('not ours')"},
            msg_id="theirs",
            date="2026-01-02T03:04:05.678901+00:00",
        )
    )
    await python.sink.wait_until(lambda messages: text_of(messages) == "not ours\n")
    context.close()

    assert {message.parent.session for message in python.sink.of("theirs")} == {"stranger"}
    assert python.kernel.session != "stranger"


async def test_a_recorded_trace_plays_what_the_sink_had_got(jupyter_home: Path) -> None:
    entries = await record(
        "# %%\nimport ipywidgets\nslider = ipywidgets.IntSlider()\n"
        '# %% send\n{"msg_type": "comm_msg", "content": {"comm_id": "$IntSliderModel",'
        ' "data": {"method": "update", "state": {"value": 7}, "buffer_paths": []}}}\n'
        "# %%\nprint(slider.value)\n"
    )
    played = RecordingSink()

    replay(read_trace(encode_entry(entry) for entry in entries), played)

    assert text_of(played.messages) == "7\n"
    assert [entry.header.msg_type for entry in entries if entry.direction == "sent"] == [
        "execute_request",
        "comm_msg",
        "execute_request",
    ]
    assert len(played.messages) == sum(entry.direction == "received" for entry in entries)


async def test_buffers_go_both_ways(python: Life) -> None:
    await python.execute(
        "def echo(comm, opened):\n"
        "    @comm.on_msg\n"
        "    def _(message): comm.send({'n': 1}, buffers=[bytes(message['buffers'][0])[::-1]])\n"
        "get_ipython().kernel.comm_manager.register_target('echo', echo)"
    )
    python.kernel.send("shell", "comm_open", {"comm_id": "c1", "target_name": "echo", "data": {}})
    sent = python.kernel.send("shell", "comm_msg", {"comm_id": "c1", "data": {}}, buffers=[b"\x00\x01\xff"])
    await python.sink.wait_until(lambda messages: any(m.header.msg_type == "comm_msg" for m in messages))

    [answer] = [message for message in python.sink.messages if message.header.msg_type == "comm_msg"]
    assert [bytes(buffer) for buffer in answer.buffers] == [b"\xff\x01\x00"]
    assert answer.parent.msg_id == sent


async def test_a_big_display_arrives_whole(python: Life) -> None:
    messages = await python.execute(
        "from IPython.display import display\ndisplay({'text/plain': 'x' * 2**24}, raw=True)"
    )

    [shown] = [message for message in messages if message.header.msg_type == "display_data"]
    assert shown.content.data["text/plain"] == "x" * 2**24  # type: ignore[attr-defined]


async def test_a_message_above_the_limit_is_told_by_its_size(python: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernel_bridge.core.wire.MAX_MESSAGE_BYTES", 1_000_000)
    messages = await python.execute(
        "from IPython.display import display\ndisplay({'text/plain': 'x' * 2**20}, raw=True)"
    )

    [shown] = [message for message in messages if message.header.msg_type == "display_data"]
    assert isinstance(shown.content, Oversize)
    assert shown.content.nbytes > 2**20


async def test_cancelling_kills_the_kernel_and_its_children(jupyter_home: Path) -> None:
    with trio.fail_after(120):
        async with launched("python3", jupyter_home) as life:
            messages = await life.execute(
                "import subprocess, sys\n"
                "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
                "print(child.pid)"
            )
            child = int(text_of(messages))
            os.kill(child, 0)

    await _gone(child)
    await _gone(life.kernel.pid)
    assert list((jupyter_home / "k").iterdir()) == []


async def test_a_kernel_that_ends_takes_its_children_with_it(python: Life) -> None:
    messages = await python.execute(
        "import subprocess, sys\nprint(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid)"
    )
    child = int(text_of(messages))
    python.start("import os; os._exit(0)")
    await python.over.wait()

    await _gone(child)


async def _gone(pid: int) -> None:
    """Returns when the process has ended, as a killed one does in a moment; an orphan may stay a zombie, where no init is."""
    try:
        if sys.platform != "linux":
            await trio.to_thread.run_sync(lambda: psutil.Process(pid).wait(20))
            return
        process = os.pidfd_open(pid)
    except (ProcessLookupError, psutil.NoSuchProcess):
        return
    try:
        with trio.fail_after(20):
            await trio.lowlevel.wait_readable(process)
    finally:
        os.close(process)


async def test_a_shutdown_is_polite(python: Life) -> None:
    await python.execute("import atexit, pathlib; atexit.register(pathlib.Path('left').write_text, 'bye')")
    await python.kernel.shutdown(grace=20)
    await python.over.wait()

    assert (python.exit.returncode, python.exit.expected) == (0, True)


async def test_a_shutdown_does_not_wait_for_a_kernel_that_will_not_go(python: Life) -> None:
    python.start(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('in', flush=True)\ntime.sleep(600)"
    )
    await python.sink.wait_until(lambda messages: text_of(messages) == "in\n")

    await python.kernel.shutdown(grace=0.2)
    await python.over.wait()

    assert (python.exit.signal, python.exit.expected) == (9, True)


async def test_a_sink_that_fails_ends_its_kernel_and_is_named(jupyter_home: Path) -> None:
    class Failing:
        def receive(self, messages: Sequence[KernelMessage]) -> None:
            if any(isinstance(message.content, Status) for message in messages):
                raise ZeroDivisionError

    with trio.fail_after(60), pytest.raises(SinkFailed) as caught:
        await run_kernel(
            find_kernelspec("python3"), Failing(), cwd=jupyter_home, env=os.environ, runtime_dir=jupyter_home / "k"
        )

    assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def test_messages_signed_with_another_key_end_the_kernel(python: Life) -> None:
    python.start("get_ipython().kernel.session.key = b'another'\nfor i in range(20): print(i, flush=True)")
    await python.over.wait()

    assert "not signed" in python.exit.message
    assert not python.exit.expected
    assert text_of(python.sink.messages) == ""


async def test_bash_goes_the_same_way(bash_kernelspec: str, jupyter_home: Path) -> None:
    with trio.fail_after(120):
        async with launched(bash_kernelspec, jupyter_home) as life:
            assert life.kernel.spec.language == "bash"
            messages = await life.execute("echo hello; pwd")
            assert text_of(messages).splitlines() == ["hello", str(jupyter_home)]
            assert reply_of(messages).status == "ok"
            completed = await life.kernel.request("shell", "complete_request", {"code": "ech", "cursor_pos": 3})
            assert isinstance(completed.content, Reply)
            assert "echo" in completed.content.raw["matches"]

            msg_id = life.start("echo in; read -t 60 line")
            await life.sink.wait_until(lambda messages: text_of(messages).endswith("in\n"))
            await life.kernel.interrupt()
            assert reply_of(await life.finished(msg_id)).status in {"abort", "error"}
            assert life.kernel.statistics().send_queue_lifted is None
            await life.kernel.shutdown()
            await life.over.wait()
            assert life.exit.expected


async def test_kernelspecs_are_found_by_name_and_listed(bash_kernelspec: str) -> None:
    specs = await trio.to_thread.run_sync(list_kernelspecs)

    assert {"python3", bash_kernelspec} <= specs.keys()
    assert specs["python3"] == find_kernelspec("python3")
    assert specs["bash"].env == {"PS1": "$"}
    with pytest.raises(NoSuchKernel) as caught:
        find_kernelspec("cobol")
    assert caught.value.name == "cobol"
    with pytest.raises(NoSuchKernel):
        find_kernelspec("../../etc")


async def test_kernelspecs_that_cannot_be_looked_for_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: KernelSpecManager) -> None:
        raise PermissionError("Permission denied: '/opt/kernels'")

    monkeypatch.setattr(KernelSpecManager, "find_kernel_specs", refuse)
    with pytest.raises(NoSuchKernel, match="cannot be read"):
        find_kernelspec("python3")


async def test_a_broken_kernelspec_is_none(jupyter_home: Path) -> None:
    folder = jupyter_home / "jupyter/data/kernels/broken"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text("{")

    with pytest.raises(NoSuchKernel, match="cannot be read"):
        find_kernelspec("broken")


async def test_the_bundled_notebook_runs_with_no_document_at_all(python: Life) -> None:
    notebook = json.loads((Path(__file__).parents[2] / "daemon" / "examples" / "tour.ipynb").read_text())
    sources = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]

    ran = [await python.execute(source) for source in sources]

    assert [reply_of(messages).status for messages in ran] == ["ok", "error", "ok", "ok", "ok", "ok", "ok"]
    kinds = [{message.header.msg_type for message in messages} for messages in ran]
    assert {"stream", "execute_result"} <= kinds[0]
    assert "error" in kinds[1]
    assert "update_display_data" in kinds[5]
    assert text_of(ran[6]) == "".join(f"step {n} of 4 is done\n" for n in range(1, 5))
