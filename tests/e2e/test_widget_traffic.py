"""What goes between the daemon and a kernel with widgets, counted in the kernel: drags, busy kernels, lists sent back.

The figures are printed with `pytest -s`.
"""

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.fakes.served_daemon import ServedDaemon
from tests.fakes.widget_story import Watcher, open_story, watching

# Every update that the kernel takes: when, when it was sent, whose, the traits, and its size.
COUNTING = """
import asyncio, json, time
import ipywidgets as w
from IPython.display import display
handled, asked = [], 0
take = get_ipython().kernel.shell_handlers['comm_msg']
def taking(stream, identities, message):
    global asked
    data, date = message['content']['data'], message['header']['date']
    if data.get('method') == 'update':
        sent = date.timestamp()
        handled.append((time.time(), sent, message['content']['comm_id'], list(data['state']), len(json.dumps(data))))
    asked += data.get('method') == 'request_state'
    return take(stream, identities, message)
get_ipython().kernel.shell_handlers['comm_msg'] = taking
"""


async def printed(watcher: Watcher, cell_id: str) -> Any:
    """What a cell printed, as JSON."""
    await watcher.run(cell_id)
    [text] = await watcher.cell(cell_id)
    return json.loads(text)


# Drags.


async def test_a_dragging_peer_shows_what_it_sets_and_then_the_kernels_correction(daemon: ServedDaemon) -> None:
    """The slider ends at 100, and the kernel echoes and clamps while the hand goes on to 199."""
    opened = await open_story(daemon, f"{COUNTING}\ns = w.IntSlider(max=100)\ns", "print(s.value)")
    async with watching(daemon, opened) as dragging, watching(daemon, opened) as other:
        await dragging.run("c0")
        comm_id = await dragging.id_of("IntSlider")
        path = ["comms", comm_id, "state", "value"]
        await other.peer.watch(other.runtime, "value", f"doc.comms['{comm_id}'].state.value")
        await dragging.peer.drag(dragging.notebook, dragging.runtime, comm_id, "value", range(200))
        for watcher in (dragging, other):
            await watcher.peer.wait_value(watcher.runtime, path, 100)
        assert await printed(dragging, "c1") == 100

        # Beyond the end, where the hand paused for longer than 0.1 s, the kernel's 100 may have shown.
        shown, series = await dragging.peer.watched("drag"), await other.peer.watched("value")
        assert [value for value in shown if value != 100] == [value for value in range(200) if value != 100]
        own = [value for value in series if value != 100]
        assert own == sorted(own)
        assert shown[-1] == series[-1] == 100
        assert (await dragging.peer.report(dragging.notebook))["early"] == 0


async def test_a_drag_without_echoes_never_jumps_back_and_asks_at_rest(daemon: ServedDaemon) -> None:
    """As by JUPYTER_WIDGETS_ECHO=0: of a value that it takes the kernel says nothing, so it is asked when the hand rests."""
    silent = "import ipywidgets.widgets.widget as module\nmodule.JUPYTER_WIDGETS_ECHO = False"
    opened = await open_story(
        daemon,
        f"{COUNTING}\n{silent}\ns = w.IntSlider(max=500)\ns",
        "print(json.dumps([s.value, len(handled), asked]))",
    )
    async with watching(daemon, opened) as dragging, watching(daemon, opened) as other:
        await dragging.run("c0")
        comm_id = await dragging.id_of("IntSlider")
        await other.peer.watch(other.runtime, "value", f"doc.comms['{comm_id}'].state.value")
        await dragging.peer.drag(dragging.notebook, dragging.runtime, comm_id, "value", range(200))
        assert (await printed(dragging, "c1"))[0] == 199
        await dragging.set(comm_id, value="no number")
        for watcher in (dragging, other):
            await watcher.peer.wait_value(watcher.runtime, ["comms", comm_id, "state", "value"], 199)
        value, updates, asked = await printed(dragging, "c1")
        print(f"\n200 values, {updates} updates, {asked} questions")
        assert value == 199
        assert 1 <= asked <= updates
        assert await dragging.peer.watched("drag") == [*range(200), "no number", 199]
        # A commit may hold several values.
        series = [value for value in await other.peer.watched("value") if value != "no number"]
        assert series == sorted(series)


async def test_two_peers_that_drag_one_slider_at_once_end_equal(daemon: ServedDaemon) -> None:
    opened = await open_story(daemon, f"{COUNTING}\ns = w.IntSlider(max=550)\ns", "print(s.value)")
    async with watching(daemon, opened) as one, watching(daemon, opened) as two:
        await one.run("c0")
        comm_id = await one.id_of("IntSlider")
        async with trio.open_nursery() as nursery:
            for watcher, first in ((one, 0), (two, 400)):
                drag = partial(watcher.peer.drag, values=range(first, first + 200))
                nursery.start_soon(drag, watcher.notebook, watcher.runtime, comm_id, "value")
        end = await printed(one, "c1")
        assert end in (199, 550)
        for watcher, first in ((one, 0), (two, 400)):
            await watcher.peer.wait_value(watcher.runtime, ["comms", comm_id, "state", "value"], end)
            shown = await watcher.peer.watched("drag")
            # When all of its requests are answered for a moment, a peer shows what the other one set.
            values = [value for value in range(first, first + 200) if value != 550]
            own = [value for value in shown if value in values]
            assert own == sorted(own)
            assert set(own) == set(values)
            assert shown[-1] == end


async def test_a_busy_kernel_has_one_update_of_each_comm_in_its_queue(daemon: ServedDaemon, tmp_path: Path) -> None:
    """Two peers drag three sliders while a cell runs; the kernel says what it found in its queue, and when that was sent."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    opened = await open_story(
        daemon,
        f"{COUNTING}\nsliders = [w.IntSlider(max=100) for _ in range(3)]\nw.VBox(sliders)",
        f"open({str(gate)!r}).read()",
        "print(json.dumps(handled))",
        "print(json.dumps([s.value for s in sliders]))",
    )
    async with watching(daemon, opened) as one, watching(daemon, opened) as two:
        await one.run("c0")
        comms = (await one.seen()).comms
        sliders = [comm_id for comm_id, comm in comms.items() if comm["model_name"] == "IntSliderModel"]
        await one.ask("execute_cell", cell_id="c1")
        await one.peer.wait(one.runtime, "doc.queue.executing")
        async with trio.open_nursery() as nursery:
            for watcher in (one, two):
                for comm_id in sliders:
                    drag = partial(watcher.peer.drag, name=comm_id)
                    nursery.start_soon(drag, watcher.notebook, watcher.runtime, comm_id, "value", range(200))
        await trio.to_thread.run_sync(gate.write_text, "go on")
        for comm_id in sliders:
            await one.peer.wait_value(one.runtime, ["comms", comm_id, "state", "value"], 100)
        handled = await printed(one, "c2")
        assert await printed(one, "c3") == [100] * 3

    assert len(handled) == 6
    for comm_id in sliders:
        (began, _, _, _, _), (_, sent, _, _, _) = [update for update in handled if update[2] == comm_id]
        assert sent >= began  # it was not in the queue before the kernel took the first
    print(f"\n1 200 update_comm on 3 sliders while a cell ran: {len(handled)} updates reached the kernel")


# Lists that are sent back.

BLOCKS = "for n in range({count}):\n    with out:\n        display(n)"
SHAPES = {
    "one block": "with out:\n    for n in range({count}):\n        display(n)",
    "a block each": BLOCKS,
    "a block each, awaiting": f"{BLOCKS}\n    await asyncio.sleep(0)",
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [200, 2000])
async def test_captured_outputs_go_back_as_one_list_a_round_trip(daemon: ServedDaemon, count: int, shape: str) -> None:
    opened = await open_story(
        daemon,
        f"{COUNTING}\nout = w.Output()\nout",
        SHAPES[shape].format(count=count),
        "texts = [o['data']['text/plain'] for o in out.outputs]\n"
        "back = [size for *_, traits, size in handled if 'outputs' in traits]\n"
        "print(json.dumps([texts, len(back), sum(back), len(json.dumps(out.outputs))]))",
    )
    async with watching(daemon, opened) as first:
        await first.run("c0", "c1")
        expected = [str(n) for n in range(count)]
        assert await first.captured(await first.id_of("Output")) == [(text,) for text in expected]
        texts, messages, size, whole = await printed(first, "c2")

    print(f"\n{count} outputs, {shape}: {messages} messages, {size} bytes ({size / whole:.2f} of the list)")
    assert texts == expected
    if "awaiting" in shape:
        assert 0 < messages < count
    else:
        assert messages <= 2
        assert size < 1.1 * whole + 1000
