"""Outputs from elsewhere than a cell's own thread, text that is none, and displays updated when their place is gone."""

from typing import Any

from sync.core.notebook_schema import NotebookSchema
from tests.fakes.scripted_kernel import ARGV
from tests.fakes.served_daemon import ServedDaemon
from tests.fakes.thin_peer import ThinPeer, open_thin_peer


def texts(outputs: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Streams by name, and displays as text."""
    return [
        (output["name"], "".join(output["text"]))
        if output["output_type"] == "stream"
        else ("display", "".join(output["data"]["text/plain"]))
        for output in outputs
    ]


async def test_stdout_and_stderr_keep_their_order_whoever_writes_them(daemon: ServedDaemon) -> None:
    async with daemon.opened() as opened, open_thin_peer(daemon, opened) as peer:
        cell_id = peer.add_cell(
            "import subprocess, sys, threading\n"
            # Flushed, since ipykernel joins what each stream has within 0.2 s, whatever the other had in between.
            "print('one', flush=True); print('two', file=sys.stderr, flush=True); print('three', flush=True)\n"
            "thread = threading.Thread(target=print, args=('of a thread',)); thread.start(); thread.join()\n"
            "subprocess.run(['printf', 'of a child']).returncode"
        )
        assert await peer.run(cell_id) == "done"
        # What a child writes comes through a pipe that the kernel reads in a thread: maybe after the result.
        await peer.shows(cell_id, lambda outputs: "of a child" in str(outputs))
        seen = texts(await peer.outputs(cell_id))
        assert seen[:2] == [("stdout", "one\n"), ("stderr", "two\n")]
        rest = "".join(text for name, text in seen[2:] if name == "stdout")
        assert rest.replace("of a child", "") == "three\nof a thread\n"
        assert [text for name, text in seen if name == "display"] == ["0"]


async def test_bytes_that_are_no_text_are_shown_as_such_and_harm_nothing(daemon: ServedDaemon) -> None:
    daemon.add_kernelspec("odd", ARGV)
    async with daemon.opened(kernel_name="odd") as opened, open_thin_peer(daemon, opened) as peer:
        script = (
            'begin(); say(\'stream\', b\'{"name": "stdout", "text": "no \\xff\\xfe utf-8, "}\')\n'
            'say(\'stream\', b\'{"name": "stdout", "text": "a lone \\\\ud800 surrogate, \\\\u0000 a null"}\'); end()'
        )
        cell_id = peer.add_cell(script)
        assert await peer.run(cell_id) == "done"
        [(name, text)] = texts(await peer.outputs(cell_id))
        assert name == "stdout"
        assert text == "no \ufffd\ufffd utf-8, a lone \ufffd surrogate, \0 a null"


async def captured(peer: ThinPeer) -> list[tuple[str, str]]:
    """What the one Output widget shows."""
    [comm] = [comm for comm in peer.read("comms").values() if comm["model_name"] == "OutputModel"]
    return texts(await peer.decode(comm["outputs"]))


async def test_a_display_is_updated_where_it_is_now_and_not_where_it_was(daemon: ServedDaemon) -> None:
    async with daemon.opened() as opened, open_thin_peer(daemon, opened) as peer:
        first = peer.add_cell("from IPython.display import display, update_display\ndisplay('1', display_id='d');")
        second = peer.add_cell("display('1', display_id='d');")
        capture = peer.add_cell("from ipywidgets import Output\nout = Output()\nwith out: display('1', display_id='d')")
        for cell_id in (first, second, capture):
            assert await peer.run(cell_id) == "done"
        update = peer.add_cell("update_display('2', display_id='d')")
        assert await peer.run(update) == "done"
        await peer.settle()
        for cell_id in (first, second):
            assert texts(await peer.outputs(cell_id)) == [("display", "'2'")]
        assert await captured(peer) == [("display", "'2'")]

        # One cell is moved to the end, one deleted, and the capture stays.
        peer.notebook.write(lambda tx: NotebookSchema.set_position(tx, first, "zzz1"))
        peer.delete_cell(second)
        peer.edit(update, "update_display('3', display_id='d')")
        assert await peer.run(update) == "done"
        await peer.settle()
        assert texts(await peer.outputs(first)) == [("display", "'3'")]
        assert await captured(peer) == [("display", "'3'")]
        assert texts(await peer.outputs(update)) == []

        # An id that nobody has shows nothing, nowhere.
        before = {cell_id: peer.manifests(cell_id) for cell_id in (first, capture)}
        assert await peer.run(peer.add_cell("update_display('x', display_id='nobody')")) == "done"
        await peer.settle()
        assert {cell_id: peer.manifests(cell_id) for cell_id in before} == before
        assert not peer.read("kernel_log")
        # A cell that shows it again after that is one more place.
        again = peer.add_cell("display('4', display_id='d');")
        assert await peer.run(again) == "done"
        peer.edit(update, "update_display('5', display_id='d')")
        assert await peer.run(update) == "done"
        await peer.settle()
        assert texts(await peer.outputs(again)) == texts(await peer.outputs(first)) == [("display", "'5'")]
