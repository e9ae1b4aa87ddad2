"""Kernels that break rules, die, hang and flood: each has an end that a peer sees, and the next cell runs."""

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio

from daemon import kernel_life
from daemon.core.executions import ASK_AFTER_INTERRUPT_SECONDS, ASK_SECONDS
from daemon.core.runtime import Runtime
from daemon.kernel_life import KernelSupervisor, KernelUnavailable
from daemon.room import new_id, timestamp
from kernel_bridge.core.unread import MAX_UNREAD_BYTES
from kernel_bridge.launcher import FREE_DESCRIPTORS
from sync.client import open_notebook
from sync.core.batch import PendingEvent
from tests.fakes.scripted_kernel import ARGV, SUBSHELLS, WIRED_ARGV
from tests.fakes.served_daemon import ServedDaemon
from tests.fakes.thin_peer import RequestFailed, ThinPeer, open_thin_peer

SCRIPTED = "scripted"
WIRED = "wired"
HONEST = "begin(); stdout('honest'); end()"


@pytest.fixture(scope="module")
def scripted(daemon: ServedDaemon) -> ServedDaemon:
    daemon.add_kernelspec(SCRIPTED, ARGV)
    daemon.add_kernelspec(WIRED, WIRED_ARGV)
    return daemon


@asynccontextmanager
async def peer_of(daemon: ServedDaemon, kernel_name: str | None = SCRIPTED) -> AsyncIterator[ThinPeer]:
    """A peer of a new notebook, whose kernel runs."""
    async with daemon.opened(kernel_name=kernel_name) as opened, open_thin_peer(daemon, opened) as peer:
        await peer.request("launch_kernel")
        yield peer


async def play(peer: ThinPeer, script: str, within: float = 30) -> tuple[str, str, dict[str, Any]]:
    """Runs a script to its end: how it ended, the text that its cell shows, and the params of execution_done."""
    cell_id = peer.add_cell(script)
    execution_id = await peer.execute(cell_id)
    event = await peer.event("execution_done", execution_id=execution_id, within=within)
    await peer.settle()
    assert len(peer.heard("execution_done", execution_id=execution_id)) == 1
    assert len(peer.heard("execution_started", execution_id=execution_id)) <= 1
    assert peer.status(execution_id) == event.params["status"]
    return event.params["status"], shown(await peer.outputs(cell_id)), event.params


def shown(outputs: list[dict[str, Any]]) -> str:
    """What a person reads."""
    parts = []
    for output in outputs:
        match output["output_type"]:
            case "stream":
                parts.append("".join(output["text"]))
            case "error":
                parts.append(output["ename"])
            case _:
                parts.append("".join(output["data"].get("text/plain", "")))
    return "|".join(parts)


async def log_of(peer: ThinPeer) -> str:
    """The kernel log."""
    return shown(await peer.decode(peer.read("kernel_log") or []))


# --- Messages that no rule allows: what the cell shows, how it ends, what the log says.

# (script, status, text of the cell, line of the kernel log)
BAD_MESSAGES = {
    "unsigned": (
        "begin(); send_frames('iopub', [b'<IDS|MSG>', b'', *frames('stream', {'name': 'stdout', 'text': 'forged'})[2:]])\n"
        "stdout('true'); end()",
        ("done", "true", "not signed with its key"),
    ),
    "signed_with_another_key": (
        "begin(); send_frames('iopub', frames('stream', {'name': 'stdout', 'text': 'forged'}, key=b'x'))\n"
        "stdout('true'); end()",
        ("done", "true", "not signed with its key"),
    ),
    "no_message_at_all": (
        "begin(); send_frames('iopub', [b'\\xff' * 1000, b'']); stdout('true'); end()",
        ("done", "true", "something that is no message"),
    ),
    "parts_missing": (
        "begin(); send_frames('iopub', frames('stream', {})[:4]); stdout('true'); end()",
        ("done", "true", "lacks parts"),
    ),
    "no_json": (
        "begin(); send_frames('iopub', frames('stream', b'{\"text')); stdout('true'); end()",
        ("done", "true", "is no JSON"),
    ),
    "malformed_header": (
        "import hashlib, hmac\n"
        "begin(); good = frames('stream', {'text': 'x'}); good[2] = b'[1]'\n"
        "good[1] = hmac.new(session().key, b''.join(good[2:]), 'sha256').hexdigest().encode()\n"
        "send_frames('iopub', good); stdout('true'); end()",
        ("done", "true", "malformed header"),
    ),
    "content_of_another_type": (
        "begin(); say('stream', {'name': 'stdout', 'text': {'not': 'text'}}); say('display_data', [1])\n"
        "stdout('true'); end()",
        ("done", "true", "does not say what it must"),
    ),
    "replayed_reply": (
        "begin(); stdout('true'); again = frames('execute_reply', {'status': 'ok', 'execution_count': 1})\n"
        "send_frames('shell', again); send_frames('shell', again); idle()",
        ("done", "true", "had come before"),
    ),
    "null_parent": (
        "begin(); say('stream', {'name': 'stdout', 'text': 'of nobody'}, parent=None); stdout('true'); end()",
        ("done", "true", "of nobody"),
    ),
    "no_parent": (
        "begin(); say('stream', {'name': 'stdout', 'text': 'of nobody'}, parent={}); stdout('true'); end()",
        ("done", "true", "of nobody"),
    ),
    "parent_unknown": (
        "begin(); stranger = {**parent, 'msg_id': 'never sent', 'session': 'another'}\n"
        "say('stream', {'name': 'stdout', 'text': 'of a stranger'}, parent=stranger)\n"
        "say('status', {'execution_state': 'idle'}, parent=stranger)\n"
        "answer('execute_reply', {'status': 'error'}, parent=stranger)\n"
        "stdout('true'); end()",
        ("done", "true", "of a stranger"),
    ),
    "counts_beyond_all_bounds": (
        "busy(); say('execute_input', {'code': '', 'execution_count': 2**70}); stdout('true')\n"
        "say('execute_result', {'data': {'text/plain': '7'}, 'metadata': {}, 'execution_count': -1}); end()",
        ("done", "true|7", ""),
    ),
}
ORDERS = {
    "idle_before_reply": ("begin(); stdout('x'); idle(); flush(); reply()", ("done", "x")),
    "output_before_busy": ("stdout('x'); begin(); end()", ("done", "x")),
    "reply_before_output": ("begin(); reply(); flush(); stdout('x'); idle()", ("done", "x")),
    "no_execute_input": ("busy(); end()", ("done", "")),
    "everything_twice": ("begin(); begin(); stdout('x'); reply(); reply('error'); idle(); idle()", ("done", "x")),
    "idle_alone_and_again": ("begin(); idle(); flush(); idle(); flush(); reply()", ("done", "")),
    "stream_after_idle": ("begin(); end(); stdout('late')", ("done", "late")),
    "unknown_status": ("begin(); stdout('x'); end('what?')", ("error", "x")),
    "aborted_after_its_start": ("begin(); stdout('x'); end('aborted')", ("error", "x")),
    "aborted_before_its_start": ("busy(); end('aborted')", ("cancelled", "")),
}


async def test_a_bad_message_costs_itself_alone_and_is_said_in_the_kernel_log(scripted: ServedDaemon) -> None:
    async with peer_of(scripted) as peer:
        for name, (script, (status, text, line)) in BAD_MESSAGES.items():
            await peer.request("restart_kernel")  # or the same line would not be said again
            before = await log_of(peer)
            assert (await play(peer, script))[:2] == (status, text), name
            assert line in (await log_of(peer)).removeprefix(before), name
            assert (await play(peer, HONEST))[:2] == ("done", "honest"), name
        assert peer.heard("kernel_error") == []


async def test_messages_out_of_order_lead_to_one_end(scripted: ServedDaemon) -> None:
    async with peer_of(scripted) as peer:
        for name, (script, (status, text)) in ORDERS.items():
            ended, seen, params = await play(peer, script)
            if text and not seen:  # what comes after the end is shown all the same
                await peer.shows(params["cell_id"], lambda outputs, text=text: shown(outputs) == text)  # type: ignore[misc]
                seen = text
            assert (ended, seen) == (status, text), name
        assert (await play(peer, HONEST))[:2] == ("done", "honest")


async def test_an_end_that_the_kernel_does_not_say_is_said_for_it(scripted: ServedDaemon) -> None:
    async with peer_of(scripted) as peer:
        ended, text, params = await play(peer, "begin(); stdout('x'); reply()")
        assert (ended, text, params.get("idle_missing")) == ("done", "x", True)
        ended, text, params = await play(peer, "begin(); stdout('x'); idle()")
        assert (ended, text, "idle_missing" in params) == ("error", "x", False)
        assert (await play(peer, HONEST))[:2] == ("done", "honest")


# --- Connections that break: what the kernel says in between is lost, and it does not know.

BREAKS = {
    "reply_lost": ("begin(); stdout('x'); flush(); hang_up('shell'); end(); listen('shell')", "x"),
    "idle_lost": ("begin(); stdout('x'); flush(); hang_up('iopub'); end(); listen('iopub')", "x"),
    "both_lost": (
        "begin(); stdout('x'); flush(); hang_up('shell', 'iopub'); end(); flush(); listen('iopub', 'shell')",
        "x",
    ),
    "both_lost_the_other_way": (
        "begin(); stdout('x'); flush(); hang_up('shell', 'iopub'); end(); flush(); listen('shell', 'iopub')",
        "x",
    ),
    "all_of_it_lost": ("hang_up('shell', 'iopub'); begin(); stdout('x'); end(); flush(); listen('shell', 'iopub')", ""),
    "none_of_it_lost": (
        "begin(); stdout('x'); flush(); hang_up('shell', 'iopub'); flush(); listen('shell', 'iopub')\n"
        "time.sleep(3); stdout('y'); end()",
        "xy",
    ),
}
BROKEN = {
    "reply_lost": ("error", ["reply_missing"]),
    "idle_lost": ("done", ["idle_missing"]),
    "none_of_it_lost": ("done", []),
}


@pytest.mark.parametrize("name", BREAKS)
async def test_what_is_lost_with_a_broken_connection_ends_all_the_same(scripted: ServedDaemon, name: str) -> None:
    async with peer_of(scripted, WIRED) as peer:
        script, shown_text = BREAKS[name]
        status, text, params = await play(peer, script)
        marks = [mark for mark in ("idle_missing", "reply_missing") if mark in params]
        assert (status, marks) == BROKEN.get(name, ("error", ["reply_missing"]))
        assert text == shown_text
        assert "broke and was made again" in await log_of(peer)
        assert (await play(peer, HONEST))[:2] == ("done", "honest")


async def test_what_waits_for_a_lost_answer_of_the_bridges_own_goes_on_after_a_new_connection(
    scripted: ServedDaemon,
) -> None:
    scripted.add_kernelspec("no-subshell", [*WIRED_ARGV, SUBSHELLS])
    async with peer_of(scripted, "no-subshell") as peer:
        assert (await peer.refusal("complete", code="a", cursor_pos=1)).reason == "timeout"
        script = "begin(); say_of('complete_request', {'matches': ['m']}); hang_up('shell', 'iopub'); flush()\n"
        await play(peer, f"{script}listen('shell', 'iopub'); end()")
        waits = peer.ask("complete", code="a", cursor_pos=1)
        await play(peer, "begin(); hang_up('shell', 'iopub'); flush(); listen('shell', 'iopub'); end()")
        assert (await waits.result())["matches"] == ["m"]


async def test_a_kernel_that_becomes_another_program_ends_what_ran(daemon: ServedDaemon) -> None:
    """The process is the same, and listens at the same addresses; of what it was told it knows nothing any more."""
    async with peer_of(daemon, "python3") as peer:
        source = "import os, sys\nos.execv(sys.executable, [sys.executable, '-m', 'ipykernel_launcher', *sys.argv[1:]])"
        running = await peer.execute(peer.add_cell(source))
        queued = await peer.execute(peer.add_cell("'source' in globals()"))
        event = await peer.event("execution_done", execution_id=running)
        assert (event.params["status"], event.params["reply_missing"]) == ("error", True)
        assert await peer.done(queued) == "done"


# --- A kernel that drops what it was sent: no reply, no idle, and it is free.


async def test_what_the_kernel_dropped_ends_by_an_interrupt(scripted: ServedDaemon) -> None:
    async with peer_of(scripted) as peer:
        dropped = await peer.execute(peer.add_cell("begin(); stdout('in')"))
        await peer.event("execution_started", execution_id=dropped)
        queued = await peer.execute(peer.add_cell(HONEST))
        await peer.settle()
        # It is to be seen, and the queue behind it.
        assert (peer.status(dropped), peer.status(queued)) == ("running", "queued")
        assert peer.read("kernel", "status") == "busy"
        assert (await peer.request("interrupt"))["execution_id"] == dropped
        assert await peer.done(dropped) == "interrupted"
        assert await peer.done(queued) == "done"


async def test_what_ends_long_after_an_interrupt_ends_as_it_says(scripted: ServedDaemon) -> None:
    async with peer_of(scripted) as peer:
        seconds = ASK_AFTER_INTERRUPT_SECONDS + ASK_SECONDS
        cell_id = peer.add_cell(
            "signal.signal(signal.SIGINT, signal.SIG_IGN); begin(); stdout('in, ')\n"
            f"time.sleep({seconds}); stdout('out'); end()"
        )
        execution_id = await peer.execute(cell_id)
        await peer.event("execution_started", execution_id=execution_id)
        await peer.request("interrupt")
        event = await peer.event("execution_done", execution_id=execution_id)
        assert (event.params["status"], "reply_missing" in event.params) == ("done", False)
        assert shown(await peer.outputs(cell_id)) == "in, out"


async def test_the_end_waits_for_outputs_that_are_still_on_their_way(scripted: ServedDaemon) -> None:
    async with peer_of(scripted) as peer:
        script = "begin(); reply()\nfor n in range(35): stdout(f'{n} '); time.sleep(0.1)\nidle()"
        status, text, params = await play(peer, script)
        assert (status, text, "idle_missing" in params) == ("done", "".join(f"{n} " for n in range(35)), False)


# --- A kernel that reads nothing.


@pytest.mark.parametrize("nbytes", [20_000, 4_000_000])  # a thousand messages, or 128 MiB
async def test_what_a_full_queue_has_no_room_for_is_refused_or_waits(scripted: ServedDaemon, nbytes: int) -> None:
    async with peer_of(scripted) as peer:
        opened = "begin(); say('comm_open', {'comm_id': 'c', 'target_name': 't', 'data': {}}); end()"
        assert (await play(peer, opened))[0] == "done"
        # It reads on when the file is there, and is done with the cell before: nothing is in flight.
        gate = scripted.root / f"gate{nbytes}"
        os.mkfifo(gate)
        before = psutil.Process(scripted.pid).memory_info().rss
        assert await peer.run(peer.add_cell(f"begin(); end(); open({str(gate)!r}).read()")) == "done"
        refusals: list[str] = []
        while not refusals:  # until there are as many, beside what fits into buffers on the way
            asked = [peer.ask("comm_custom", comm_id="c", content={"x": "y" * nbytes}) for _ in range(10)]
            for one in asked:
                await one.arrived.wait()
            refusals = [one.response["error"]["data"]["reason"] for one in asked if "error" in one.response]
        assert set(refusals) == {"busy"}
        assert psutil.Process(scripted.pid).memory_info().rss - before < 2 * MAX_UNREAD_BYTES
        assert (await peer.refusal("complete", code="a", cursor_pos=1)).reason == "busy"
        assert "reads nothing" in await log_of(peer)
        waits = await peer.execute(peer.add_cell(HONEST))
        await peer.settle()
        assert peer.status(waits) == "queued"
        await trio.to_thread.run_sync(gate.write_text, "")
        assert await peer.done(waits) == "done"


async def test_a_kernel_that_signs_with_another_key_is_ended_and_peers_hear_why(scripted: ServedDaemon) -> None:
    async with peer_of(scripted) as peer:
        script = "begin()\nfor n in range(20): send_frames('iopub', frames('stream', {'text': 'forged'}, key=b'x'))"
        assert (await play(peer, script))[0] == "error"
        [error] = peer.heard("kernel_error")
        assert error.params["reason"] == "protocol"
        assert "not signed" in error.params["message"]
        assert peer.read("kernel", "status") == "dead"
        assert "not signed" in peer.read("kernel", "error", "message")
        assert (await play(peer, HONEST))[:2] == ("done", "honest")


async def test_a_hang_with_a_beating_heart_ends_by_a_restart_and_holds_up_nobody(scripted: ServedDaemon) -> None:
    async with peer_of(scripted) as peer, peer_of(scripted) as other:
        hung = await peer.execute(
            peer.add_cell(
                "signal.signal(signal.SIGINT, signal.SIG_IGN); begin(); stdout('in'); threading.Event().wait()"
            )
        )
        await peer.event("execution_started", execution_id=hung)
        queued = await peer.execute(peer.add_cell(HONEST))
        assert (await peer.request("interrupt"))["execution_id"] == hung  # at once, though it changes nothing
        assert (await peer.refusal("complete", code="a", cursor_pos=1)).reason == "timeout"
        assert (await play(other, HONEST))[:2] == ("done", "honest")
        assert peer.status(hung) == "running"
        await peer.request("restart_kernel")
        assert (await peer.done(hung), await peer.done(queued)) == ("interrupted", "cancelled")
        assert (await play(peer, HONEST))[:2] == ("done", "honest")


# --- What a kernel says that goes to peers as it is.

ANSWERS = {
    "too_long": "{'matches': ['m' * 1000] * 20_000}",
    "too_many": "{'matches': ['m'] * 1_000_000}",
    "too_deep": "b'{\"matches\": ' + b'[' * 900 + b']' * 900 + b'}'",
    "too_great": "{'matches': [2**600]}",
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_that_no_peer_takes_is_refused_and_costs_nobody_a_connection(
    scripted: ServedDaemon, name: str
) -> None:
    async with peer_of(scripted) as peer:
        assert (await play(peer, f"say_of('complete_request', {ANSWERS[name]}); begin(); end()"))[0] == "done"
        assert (await peer.refusal("complete", code="a", cursor_pos=1)).reason == "too_large"
        forged = "{'matches': ['m'], 'heads': ['0' * 64], 'runtime': 'another', 'notebook_heads': ['0' * 64]}"
        assert (await play(peer, f"say_of('complete_request', {forged}); begin(); end()"))[0] == "done"
        result = await peer.request("complete", code="a", cursor_pos=1)
        assert (result["matches"], result["runtime"]) == (["m"], peer.runtime.document_id)
        assert "notebook_heads" not in result


async def test_a_custom_message_that_no_peer_takes_is_dropped_with_a_line(scripted: ServedDaemon) -> None:
    async with peer_of(scripted) as peer:
        script = "begin()\nfor comm in 'abcd': say('comm_open', {'comm_id': comm, 'target_name': 't', 'data': {}})\n"
        for comm, answer in zip("abcd", ANSWERS.values(), strict=True):
            script += f"said = {answer}; data = said if isinstance(said, bytes) else json.dumps(said).encode()\n"
            script += f"say('comm_msg', b'{{\"comm_id\": \"{comm}\", \"data\": ' + data + b'}}')\n"
        script += "say('comm_msg', {'comm_id': 'a', 'data': {'last': 1}}); end()"
        assert (await play(peer, script))[0] == "done"
        assert [event.params["content"] for event in peer.heard("comm_custom")] == [{"last": 1}]
        log = await log_of(peer)
        assert [comm for comm in "abcd" if f"a custom message of {comm} " in log] == ["a", "b", "c", "d"]


async def test_kernels_for_which_no_files_can_be_opened_are_refused_and_the_others_live(scripted: ServedDaemon) -> None:
    process = psutil.Process(scripted.pid)
    before = process.rlimit(psutil.RLIMIT_NOFILE)
    async with peer_of(scripted) as first, AsyncExitStack() as others:
        used = process.num_fds()
        process.rlimit(psutil.RLIMIT_NOFILE, (used + FREE_DESCRIPTORS + 70, before[1]))
        try:
            refused = None
            while refused is None:
                opened = await others.enter_async_context(scripted.opened(kernel_name=SCRIPTED))
                peer = await others.enter_async_context(open_thin_peer(scripted, opened))
                try:
                    await peer.request("launch_kernel")
                except RequestFailed as failed:
                    refused = failed
            assert (refused.reason, "no room for another kernel" in str(refused)) == ("kernel_failed", True)
            # It is told in the notebook, and the others' kernels go on.
            await peer.settle()
            assert "no room" in peer.read("kernel", "error", "message")
            assert (await play(first, HONEST))[:2] == ("done", "honest")
            await first.request("shutdown_kernel")
            await peer.request("launch_kernel")
            assert (await play(peer, HONEST))[:2] == ("done", "honest")
        finally:
            process.rlimit(psutil.RLIMIT_NOFILE, before)


# --- Deaths.


def kernel_process(daemon: ServedDaemon, name: str) -> psutil.Process:
    [kernel] = [p for p in psutil.Process(daemon.pid).children() if any(name in word for word in p.cmdline())]
    return kernel


async def test_an_oom_kill_with_fifty_in_the_queue_ends_all_of_them(scripted: ServedDaemon) -> None:
    async with peer_of(scripted) as peer:
        running = await peer.execute(peer.add_cell("begin(); stdout('in'); threading.Event().wait()"))
        await peer.event("execution_started", execution_id=running)
        queued = [await peer.execute(peer.add_cell(HONEST)) for _ in range(50)]
        kernel_process(scripted, "scripted_kernel").kill()
        assert await peer.done(running) == "error"
        assert {await peer.done(execution_id) for execution_id in queued} == {"cancelled"}
        error = await peer.event("kernel_error")
        assert error.params["reason"] == "died"
        assert "signal 9" in error.params["message"]
        await peer.settle()
        assert peer.read("queue") == {"executing": None, "queued": []}
        assert (await play(peer, HONEST))[:2] == ("done", "honest")


async def test_of_thousands_that_end_at_once_a_peer_hears_of_each(scripted: ServedDaemon) -> None:
    """Also one that is busy meanwhile: it can't follow to the runtime document that takes the place of the one before."""
    async with (
        scripted.opened(kernel_name=SCRIPTED) as opened,
        open_thin_peer(scripted, opened) as peer,
        open_thin_peer(scripted, opened) as busy,
        open_notebook(scripted.url, token=scripted.token, notebook=opened.notebook) as client,
    ):
        events = client.events()
        running = await peer.execute(peer.add_cell("begin(); stdout('in'); threading.Event().wait()"))
        await peer.event("execution_started", execution_id=running)
        cell_id = peer.add_cell(HONEST)
        queued: list[str] = []
        while len(queued) < 2_500:
            asked = [peer.ask("execute_cell", cell_id=cell_id) for _ in range(50)]
            queued += [(await one.result())["execution_id"] for one in asked]
        await busy.settle()
        first_runtime = busy.runtime.document_id
        busy.reads = trio.Event()
        await peer.request("restart_kernel")  # its answer is behind all of them
        assert ended(peer) == [running, *queued]
        heard: list[str] = []
        while len(heard) < len(queued) + 1:
            event = await anext(events)
            if event.method == "execution_done":
                heard.append(event.params["execution_id"])
        assert heard == [running, *queued]
        assert {peer.status(execution_id) for execution_id in queued} == {"cancelled"}
        busy.reads.set()
        await busy.settle()
        assert ended(busy) == [running, *queued]
        assert busy.runtime.document_id != first_runtime


def ended(peer: ThinPeer) -> list[str]:
    """The executions that it heard the end of, in order."""
    return [event.params["execution_id"] for event in peer.heard("execution_done")]


@pytest.mark.parametrize(
    "script",
    [
        "begin(); send_frames('iopub', frames('stream', {'text': 'y' * 50_000_000})); os.kill(os.getpid(), 9)",
        "begin(); kernel.sockets['iopub'].send(b'topic', 2); os._exit(1)",  # 2: SNDMORE
        "os._exit(1)",
    ],
    ids=["within_a_long_one", "between_its_frames", "before_the_first"],
)
async def test_a_kernel_that_dies_in_the_middle_of_a_message_is_told(scripted: ServedDaemon, script: str) -> None:
    async with peer_of(scripted) as peer:
        status, _, _ = await play(peer, script)
        assert status in ("error", "cancelled")
        [error] = peer.heard("kernel_error")
        assert error.params["reason"] == "died"
        assert (await play(peer, HONEST))[:2] == ("done", "honest")


async def test_a_callback_whose_end_is_lost_holds_up_nobody(scripted: ServedDaemon) -> None:
    async with peer_of(scripted) as peer:
        opened = {"comm_id": "w", "target_name": "jupyter.widget", "data": {"state": {"value": 0}}}
        handler = "kernel.taken.append(request['content']['data'].get('state')); busy()"
        script = f"begin(); kernel.taken = []; handle_comms({handler!r}); say('comm_open', {opened}); end()"
        assert (await play(peer, script))[0] == "done"
        await peer.request("update_comm", comm_id="w", state={"value": 1})
        await peer.wait(lambda: peer.read("kernel", "status") == "busy")
        await peer.request("update_comm", comm_id="w", state={"value": 2})
        asked = "begin(); stdout(json.dumps(kernel.taken)); end()"
        assert (await play(peer, asked))[:2] == ("done", '[{"value": 1}, {"value": 2}]')
        await peer.settle()
        assert peer.read("kernel", "status") == "idle"


async def test_a_kernel_that_ends_itself_in_a_comm_callback_is_told(daemon: ServedDaemon) -> None:
    async with peer_of(daemon, "python3") as peer:
        source = (
            "import os\n"
            "def opened(comm, message): comm.on_msg(lambda message: os._exit(3))\n"
            "get_ipython().kernel.comm_manager.register_target('bomb', opened)"
        )
        assert await peer.run(peer.add_cell(source)) == "done"
        await peer.request("comm_open", comm_id="b", target_name="bomb", data={})
        await peer.request("comm_custom", comm_id="b", content={})
        error = await peer.event("kernel_error")
        assert (error.params["reason"], "exit code 3" in error.params["message"]) == ("died", True)
        await peer.settle()
        assert (peer.read("kernel", "status"), peer.read("comms")) == ("dead", {})
        assert (await peer.refusal("comm_custom", comm_id="b", content={})).reason == "no_kernel"
        assert await peer.run(peer.add_cell("1")) == "done"
        assert peer.read("kernel", "error") is None


async def test_a_kernel_that_is_no_program_is_told(daemon: ServedDaemon, tmp_path: Path) -> None:
    program = tmp_path / "kernel"
    program.write_text("not executable")
    daemon.add_kernelspec("no-program", [str(program), "{connection_file}"])
    async with daemon.opened(kernel_name="no-program") as opened, open_thin_peer(daemon, opened) as peer:
        assert await peer.run(peer.add_cell("1")) == "cancelled"
        error = await peer.event("kernel_error")
        await peer.settle()
        assert error.params["reason"] == "launch_failed"
        assert "Permission denied" in error.params["message"]
        assert peer.read("kernel", "status") == "dead"


async def test_a_start_that_hangs_is_ended_in_time_and_told_as_that(
    jupyter_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_life, "READY_SECONDS", 0.5)
    folder = jupyter_home / "jupyter/data/kernels/silent"
    folder.mkdir(parents=True)
    argv = [
        sys.executable,
        "-c",
        "import sys, time; sys.stderr.write('warming up'); sys.stderr.flush(); time.sleep(600)",
    ]
    (folder / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Silent", "language": "none"}))
    runtime = Runtime(new_id=new_id, monotonic=trio.current_time, timestamp=timestamp, wake=lambda urgency: None)
    kernels = KernelSupervisor(
        runtime,
        cwd=jupyter_home,
        env=os.environ,
        runtime_dir=jupyter_home / "k",
        default_name=lambda: "silent",
        deadline_moved=lambda: None,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kernels.run)
        runtime.add_cell("a")
        runtime.submit([("x", "a", "1")], run_id=None, stop_on_error=False)
        with pytest.raises(KernelUnavailable, match=r"did not answer within 0\.5 s") as unavailable:
            await kernels.launch(None).wait()
        nursery.cancel_scope.cancel()
    assert unavailable.value.stderr == "warming up"
    events = [notice for notice in runtime.drain().notices if isinstance(notice, PendingEvent)]
    [done] = [event.params for event in events if event.method == "execution_done"]
    [error] = [event.params for event in events if event.method == "kernel_error"]
    assert (done["status"], error["reason"], error["traceback"]) == ("cancelled", "timeout", "warming up")
    assert runtime.kernel_status == "dead"


# --- Floods.

FLUSHED = 100_000


async def test_megabytes_on_stdout_and_stderr_of_the_process_change_nothing_and_the_end_is_told(
    scripted: ServedDaemon,
) -> None:
    async with peer_of(scripted) as peer:
        script = (
            "begin()\nfor fd in (1, 2):\n    for n in range(200): os.write(fd, b'z' * 99_999 + b'\\n')\n"
            "os.write(2, b'last words'); stdout('x'); end()"
        )
        assert (await play(peer, script))[:2] == ("done", "x")
        assert (await play(peer, "begin(); flush(); os._exit(4)"))[0] == "error"
        [error] = peer.heard("kernel_error")
        assert error.params["traceback"].endswith("last words")
        assert len(error.params["traceback"]) <= 64 * 1024


async def test_prints_without_end_are_one_output_and_can_be_interrupted(daemon: ServedDaemon) -> None:
    async with peer_of(daemon, "python3") as peer:
        cell = peer.add_cell(f"for i in range({FLUSHED * 2}): print(i)")
        assert await peer.run(cell, within=60) == "done"
        await peer.settle()
        [output] = await peer.outputs(cell)
        assert "".join(output["text"]) == "".join(f"{i}\n" for i in range(FLUSHED * 2))
        endless = await peer.execute(peer.add_cell("while True: print('x' * 80)"))
        await peer.event("execution_started", execution_id=endless)
        await peer.request("interrupt")
        assert await peer.done(endless) == "interrupted"


async def test_a_hundred_megabytes_in_one_message_arrive_or_are_said_to_be_left_out(scripted: ServedDaemon) -> None:
    async with peer_of(scripted) as peer:
        status, text, _ = await play(peer, "begin(); stdout('y' * 100_000_000 + '\\n'); end()", within=60)
        assert (status, len(text), set(text)) == ("done", 100_000_001, {"y", "\n"})
        script = "begin(); say('display_data', {'data': {'text/html': 'y' * 150_000_000}, 'metadata': {}}); end()"
        status, text, _ = await play(peer, script, within=60)
        assert (status, "was left out" in text) == ("done", True)
        # Beyond what is read at all.
        script = "begin(); say('display_data', {'data': {}, 'metadata': {}}, buffers=[bytes(270 * 2**20)]); end()"
        status, text, _ = await play(peer, script, within=60)
        assert (status, "was left out" in text) == ("done", True)
        assert (await play(peer, HONEST))[:2] == ("done", "honest")


async def test_ten_thousand_updates_of_a_display_leave_the_last(scripted: ServedDaemon) -> None:
    async with peer_of(scripted) as peer:
        script = (
            "begin(); one = {'transient': {'display_id': 'd'}, 'metadata': {}}\n"
            "say('display_data', {'data': {'text/plain': 'first'}, **one})\n"
            "for n in range(10_000): say('update_display_data', {'data': {'text/plain': f'{n}'}, **one})\n"
            "end()"
        )
        changes = len(peer.runtime.replica.changes_since(()))
        assert (await play(peer, script, within=60))[:2] == ("done", "9999")
        commits = len(peer.runtime.replica.changes_since(())) - changes
        assert commits < 5_000, "updates between two commits leave the last"


async def test_a_display_shown_and_updated_thousands_of_times_holds_up_nobody(scripted: ServedDaemon) -> None:
    async with peer_of(scripted) as peer, peer_of(scripted) as other:
        script = (
            "begin(); one = {'transient': {'display_id': 'd'}, 'metadata': {}}\n"
            "for n in range(9_000): say('display_data', {'data': {'text/plain': '-'}, **one})\n"
            "for n in range(3_000): say('update_display_data', {'data': {'text/plain': f'{n}'}, **one})\n"
            "end()"
        )
        cell_id = peer.add_cell(script)
        execution_id = await peer.execute(cell_id)
        answered = 0
        while not peer.heard("execution_done", execution_id=execution_id):
            assert (await play(other, HONEST))[:2] == ("done", "honest")
            answered += 1
        assert answered > 0
        await peer.settle()
        assert shown(await peer.outputs(cell_id)) == "|".join(["2999"] * 9_000)


async def test_a_hundred_thousand_comms_are_as_many_as_fit_and_a_line(scripted: ServedDaemon) -> None:
    async with peer_of(scripted) as peer:
        script = (
            "begin(); data = {'state': {'_model_name': 'IntSliderModel', 'value': 1}, 'buffer_paths': []}\n"
            "for n in range(100_000):\n"
            "    say('comm_open', {'comm_id': f'c{n}', 'target_name': 'jupyter.widget', 'data': data})\n"
            "end()"
        )
        assert (await play(peer, script, within=110))[0] == "done"
        comms = peer.read("comms")
        assert len(comms) == 10_000
        assert "more than 10000 comms" in await log_of(peer)
        assert (await play(peer, HONEST, within=60))[:2] == ("done", "honest")
