"""What becomes of a notebook's file, and of what is in none, when it is saved, closed, or opened again."""

import errno
import json
import os
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from daemon.core.notebook_file import render_notebook
from daemon.core.notebook_model import LoadedNotebook, SavedNotebook
from daemon.files import FileVersion, write_atomic, write_new
from daemon.http_app import ApiError
from daemon.kernel_life import KernelSupervisor
from daemon.loading import load_into
from daemon.opening import read_notebook
from daemon.room import Room
from daemon.saving import RenderedNotebook
from sync.blobs import BlobStoreError
from sync.core.identifiers import heads_to_hex
from sync.core.notebook_schema import NotebookSchema
from sync.core.runtime_reading import read_runtime
from sync.core.value_reading import InvalidValue, Load, decode_manifest
from tests.fakes.hub_in_memory import CELLS, Client, Running, running
from tests.tasks.test_room import edit_source, fail_in_writer

EDITED = "1, and a week of edits"
THEIRS = json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{**CELLS[0], "source": "theirs"}]})


@pytest.fixture(autouse=True)
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KernelSupervisor, "launch_in_background", lambda self: None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


async def edit(client: Client, room: Room, text: str = ", and a week of edits") -> None:
    change, heads = edit_source(room, "a", text)
    client.sync(room.notebook, change, heads=heads)
    await client.answered(client.ask(room, "barrier"))


async def edited(daemon: Running, name: str = "a.ipynb") -> tuple[Room, Client]:
    daemon.write(name)
    room = await daemon.open(name)
    client = await daemon.connect(room)
    await edit(client, room)
    return room, client


async def ask(client: Client, room: Room, method: str, **params: Any) -> str:
    request = client.ask(room, method, **params)
    await client.answered(request)
    return client.answers[request]


def source(path: Path) -> str:
    notebook = nbformat.reads(path.read_text(), 4)
    nbformat.validate(notebook)
    return str(notebook.cells[0].source)


def room_source(room: Room) -> str | None:
    return NotebookSchema.read_source(room.notebook.replica, "a")


def copies(folder: Path, stem: str = "a") -> list[Path]:
    return sorted(folder.glob(f"{stem}.unsaved-*.ipynb"))


def file_of(room: Room) -> dict[str, Any]:
    return dict(read_runtime(room.runtime_document.replica)["file"])


def errors(logs: list[MutableMapping[str, Any]]) -> list[MutableMapping[str, Any]]:
    assert not [line for line in logs if line.get("exc_info")]
    return [line for line in logs if line["log_level"] == "error"]


def change_outside(path: Path) -> None:
    path.write_text(THEIRS)


def put_a_folder_there(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_read_only(path: Path) -> None:
    path.chmod(0o444)


HARMS = [(change_outside, 409, "conflict"), (put_a_folder_there, 409, "conflict"), (make_read_only, 403, "forbidden")]


@pytest.fixture
def nobody_is_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """For root nothing is read-only."""
    if os.geteuid() != 0:
        return
    really_open = os.open

    def open_as_nobody(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT and not os.stat(os.path.dirname(path)).st_mode & 0o200:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return really_open(path, flags, mode)

    monkeypatch.setattr("daemon.files.os.open", open_as_nobody)
    monkeypatch.setattr("daemon.files.os.access", lambda path, mode: bool(os.stat(path).st_mode & 0o200))


# Closing.


@pytest.mark.usefixtures("nobody_is_root")
@pytest.mark.parametrize(("harm", "status", "reason"), HARMS)
async def test_a_notebook_that_can_not_be_saved_is_not_closed(
    root: Path, harm: Callable[[Path], None], status: int, reason: str
) -> None:
    async with running(root) as daemon:
        room, client = await edited(daemon)
        assert await ask(client, room, "execute_cell", cell_id="a") == "ok"
        path = root / "a.ipynb"
        harm(path)
        before = path.read_bytes() if path.is_file() else None

        with pytest.raises(ApiError, match="another path") as refused:
            await daemon.hub.close_notebook(room.id)
        assert (refused.value.status, refused.value.reason) == (status, reason)
        assert not room.closing
        assert room.runtime.queue.waiting, "what was queued still is"
        await edit(client, room, "!")
        with pytest.raises(ApiError):
            await daemon.hub.close_notebook(room.id, save=False, peer_id="peer")

        # The way out that the message names.
        assert await ask(client, room, "save_notebook", path="elsewhere.ipynb") == "ok"
        assert not room.file.edited
        await daemon.hub.close_notebook(room.id, save=False, peer_id="peer")
        assert daemon.hub.rooms == {}
        assert source(root / "elsewhere.ipynb").startswith("1!")
        assert (path.read_bytes() if path.is_file() else None) == before
        assert copies(root) == []


@pytest.mark.usefixtures("nobody_is_root")
async def test_in_a_folder_that_can_not_be_written_nothing_is_lost_either(root: Path) -> None:
    async with running(root) as daemon:
        folder = root / "sub"
        folder.mkdir()
        room, client = await edited(daemon, "sub/a.ipynb")
        folder.chmod(0o555)
        try:
            assert await ask(client, room, "save_notebook") == "forbidden"
            await room.writer.flush()
            assert file_of(room)["status"] == "read_only"
            with pytest.raises(ApiError) as refused:
                await daemon.hub.close_notebook(room.id)
            assert (refused.value.status, refused.value.reason) == (403, "forbidden")
            await daemon.hub.close_all(save=True)
        finally:
            folder.chmod(0o755)
        assert [source(copy) for copy in copies(root / "state" / "unsaved")] == [EDITED]
        assert os.listdir(folder) == ["a.ipynb"]


async def test_a_full_disk_closes_nothing_and_makes_the_file_nothing_else(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(root) as daemon:
        room, client = await edited(daemon)

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("daemon.files.fsync", full)
        assert await ask(client, room, "save_notebook") == "internal"
        with pytest.raises(ApiError, match="No space left") as refused:
            await daemon.hub.close_notebook(room.id)
        assert (refused.value.status, refused.value.reason) == (500, "internal")
        assert file_of(room)["status"] == "ready"
        assert source(root / "a.ipynb") == "1"
        monkeypatch.undo()
        await daemon.hub.close_notebook(room.id)
        assert source(root / "a.ipynb") == EDITED


async def test_a_save_that_takes_too_long_closes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.closing.CLOSE_SECONDS", 0.01)
    async with running(root) as daemon:
        room, _ = await edited(daemon)
        async with room.saving:
            with pytest.raises(ApiError, match="stays open") as refused:
                await daemon.hub.close_notebook(room.id)
        assert (refused.value.status, refused.value.reason) == (503, "timeout")
        assert not room.closing


async def test_a_bug_met_while_saving_closes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(root) as daemon:
        room, _ = await edited(daemon)

        async def fail() -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(room, "save", fail)
        with pytest.raises(ApiError, match="stays open") as refused:
            await daemon.hub.close_notebook(room.id)
        assert refused.value.status == 500
        assert list(daemon.hub.rooms.values()) == [room]
        await daemon.hub.close_all(save=True)
        assert [source(copy) for copy in copies(root)] == [EDITED]


async def test_what_is_written_elsewhere_counts_until_somebody_writes_on(root: Path) -> None:
    async with running(root) as daemon:
        room, client = await edited(daemon)
        assert room.file.edited
        assert await ask(client, room, "save_notebook", path="elsewhere.ipynb") == "ok"
        assert not room.file.edited
        assert room.file.changed, "its own file is as it was"
        await edit(client, room, "!")
        assert room.file.edited


@pytest.mark.usefixtures("nobody_is_root")
@pytest.mark.parametrize("harm", [harm for harm, _, _ in HARMS])
async def test_what_can_not_be_saved_at_the_end_is_kept_beside_the_file(
    root: Path, harm: Callable[[Path], None]
) -> None:
    async with running(root) as daemon:
        await edited(daemon)
        harm(root / "a.ipynb")
        with capture_logs() as logs:
            await daemon.hub.close_all(save=True)

        [copy] = copies(root)
        assert source(copy) == EDITED
        assert copy.stat().st_mode & 0o7777 == 0o600
        assert datetime.strptime(copy.name, "a.unsaved-%Y%m%dT%H%M%SZ.ipynb")
        [line] = errors(logs)
        assert line["copy"] == str(copy)
        if (root / "a.ipynb").is_file():
            assert source(root / "a.ipynb") in ("1", "theirs")


async def test_no_copy_takes_the_place_of_a_file(root: Path) -> None:
    async with running(root) as daemon:
        await edited(daemon)
        change_outside(root / "a.ipynb")
        now = datetime.now(UTC)
        for seconds in range(60):
            name = f"a.unsaved-{now + timedelta(seconds=seconds):%Y%m%dT%H%M%SZ}.ipynb"
            (root / name).write_text("somebody else's")
        await daemon.hub.close_all(save=True)
        others = [path for path in copies(root) if path.read_text() == "somebody else's"]
        [copy] = set(copies(root)) - set(others)
        assert len(others) == 60
        assert source(copy) == EDITED


async def test_where_the_folder_takes_no_copy_the_state_directory_does(root: Path) -> None:
    async with running(root) as daemon:
        (root / "sub").mkdir()
        await edited(daemon, "sub/a.ipynb")
        (root / "sub" / "a.ipynb").unlink()
        (root / "sub").rmdir()
        with capture_logs() as logs:
            await daemon.hub.close_all(save=True)
        [copy] = copies(root / "state" / "unsaved")
        assert source(copy) == EDITED
        assert copy.parent.stat().st_mode & 0o7777 == 0o700
        [line] = errors(logs)
        assert line["copy"] == str(copy)
        assert not (root / "sub").exists()


async def test_where_nothing_can_be_written_the_log_says_so(root: Path) -> None:
    async with running(root) as daemon:
        (root / "sub").mkdir()
        await edited(daemon, "sub/a.ipynb")
        (root / "sub" / "a.ipynb").unlink()
        (root / "sub").rmdir()
        (root / "state").write_text("no folder")
        with capture_logs() as logs:
            await daemon.hub.close_all(save=True)
        [line] = errors(logs)
        assert "lost" in line["event"]
        assert daemon.hub.rooms == {}


async def test_what_was_saved_elsewhere_is_not_copied_as_well(root: Path) -> None:
    async with running(root) as daemon:
        room, client = await edited(daemon)
        change_outside(root / "a.ipynb")
        assert await ask(client, room, "save_notebook", path="elsewhere.ipynb") == "ok"
        await daemon.hub.close_all(save=True)
        assert copies(root) == []


async def test_where_what_was_saved_elsewhere_is_gone_it_counts_no_more(root: Path) -> None:
    async with running(root) as daemon:
        room, client = await edited(daemon)
        change_outside(root / "a.ipynb")
        assert await ask(client, room, "save_notebook", path="elsewhere.ipynb") == "ok"
        client.socket.leave()
        await wait_all_tasks_blocked()
        change_outside(root / "elsewhere.ipynb")
        with pytest.raises(ApiError, match="no file"):
            await daemon.hub.close_notebook(room.id, save=False)
        await daemon.hub.close_all(save=True)
        assert [source(copy) for copy in copies(root)] == [EDITED]


async def test_a_file_that_changes_while_its_notebook_is_closed_costs_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(root) as daemon:
        room, _ = await edited(daemon)
        save = room.save

        async def save_and_change(path: Path | None = None) -> dict[str, Any]:
            monkeypatch.undo()
            saved = await save(path)
            room.writer.file_changes += 1  # as a kernel's output does
            change_outside(root / "a.ipynb")
            return saved

        monkeypatch.setattr(room, "save", save_and_change)
        with capture_logs() as logs:
            await daemon.hub.close_notebook(room.id)
        [copy] = copies(root)
        assert source(copy) == EDITED
        assert [line["copy"] for line in errors(logs)] == [str(copy)]
        assert source(root / "a.ipynb") == "theirs"
        assert daemon.hub.rooms == {}


async def test_what_was_written_into_a_notebook_that_was_not_loaded_whole_is_kept(root: Path) -> None:
    output = {"output_type": "display_data", "data": {"text/html": "x" * 5_000}, "metadata": {}}
    async with running(root) as daemon:
        daemon.write("a.ipynb", [{**CELLS[0], "outputs": [output]}])
        before = (root / "a.ipynb").read_bytes()
        daemon.blobs.error = BlobStoreError("No space left on device")
        room = await daemon.open()
        daemon.blobs.error = None
        client = await daemon.connect(room)
        await edit(client, room)
        with pytest.raises(ApiError, match="not loaded whole") as refused:
            await daemon.hub.close_notebook(room.id)
        assert refused.value.status == 403
        (root / "a.ipynb").rename(root / "away.ipynb")
        assert await daemon.open() is room
        (root / "away.ipynb").rename(root / "a.ipynb")
        assert await daemon.open() is room
        assert file_of(room)["status"] == "read_only", "wherever the file is"
        await daemon.hub.close_all(save=True)
        assert (root / "a.ipynb").read_bytes() == before
        assert [source(copy) for copy in copies(root)] == [EDITED]


async def test_what_a_room_held_that_failed_is_kept(root: Path) -> None:
    async with running(root) as daemon:
        room, client = await edited(daemon)
        fail_in_writer(room)
        await room.ended.wait()
        await client.socket.until(lambda: daemon.hub.rooms == {} and copies(root) != [])
        await wait_all_tasks_blocked()
        assert [source(copy) for copy in copies(root)] == [EDITED]
        assert source(root / "a.ipynb") == "1"


async def test_an_output_that_is_gone_does_not_take_with_it_what_people_wrote(root: Path) -> None:
    html = {"output_type": "display_data", "data": {"text/html": "x" * 5_000}, "metadata": {}}
    text = {"output_type": "stream", "name": "stdout", "text": "kept\n"}
    async with running(root) as daemon:
        daemon.write("a.ipynb", [{**CELLS[0], "outputs": [html, text]}])
        room = await daemon.open()
        client = await daemon.connect(room)
        await edit(client, room)
        for folder in (root / "blobs").iterdir():
            for blob in folder.iterdir() if folder.is_dir() else []:
                blob.unlink()
        assert await ask(client, room, "save_notebook") == "internal"
        with pytest.raises(ApiError, match="no blob"):
            await daemon.hub.notebook_file(room.id)
        with pytest.raises(ApiError, match="clear_outputs"):
            await daemon.hub.close_notebook(room.id)
        await daemon.hub.close_all(save=True)
        [copy] = copies(root)
        assert source(copy) == EDITED
        line, kept = json.loads(copy.read_text())["cells"][0]["outputs"]
        assert (line["name"], "".join(line["text"]).startswith("[notebookd: here was an output")) == ("stderr", True)
        assert "".join(kept["text"]) == "kept\n"


async def test_all_notebooks_are_saved_before_a_kernel_ends(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number}.ipynb" for number in range(3)]
    saved: list[list[str]] = []
    close = KernelSupervisor.close

    async def note(kernels: KernelSupervisor) -> None:
        saved.append([source(root / name) for name in names])
        await close(kernels)

    monkeypatch.setattr(KernelSupervisor, "close", note)
    async with running(root) as daemon:
        for name in names:
            await edited(daemon, name)
        await daemon.hub.close_all(save=True)
    assert saved == [[EDITED] * 3] * 3


@pytest.mark.parametrize("where", ["in the file", "before it is rendered"])
async def test_a_notebook_that_is_closed_while_the_daemon_ends_is_saved(
    root: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    disk_answers = trio.Event()

    async def write(path: Path, data: bytes, *, expect: FileVersion | None = None) -> FileVersion:
        await disk_answers.wait()
        return await write_atomic(path, data, expect=expect)

    async with running(root) as daemon:
        room, _ = await edited(daemon)
        if where == "in the file":
            monkeypatch.setattr("daemon.saving.write_atomic", write)
        else:
            await room.saving.acquire()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(daemon.hub.close_all, save=True))
            await wait_all_tasks_blocked()
            nursery.start_soon(partial(daemon.hub.close_notebook, room.id))
            await wait_all_tasks_blocked()
            assert not room.ended.is_set()
            disk_answers.set()
            if where != "in the file":
                room.saving.release()
        assert (source(root / "a.ipynb"), copies(root)) == (EDITED, [])


async def test_no_notebook_is_opened_any_more_once_the_daemon_ends(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk_answers = trio.Event()

    async def read(*args: Any, **options: Any) -> Any:
        await disk_answers.wait()
        return await read_notebook(*args, **options)

    monkeypatch.setattr("daemon.rooms.read_notebook", read)
    async with running(root) as daemon:
        daemon.write("a.ipynb")
        async with trio.open_nursery() as nursery:

            async def open_late() -> None:
                with pytest.raises(ApiError, match="ending"):
                    await daemon.open()

            nursery.start_soon(open_late)
            await wait_all_tasks_blocked()
            await daemon.hub.close_all(save=True)
            disk_answers.set()
        assert daemon.hub.rooms == {}


async def test_a_disk_that_does_not_answer_keeps_the_other_kernels_no_longer_than_saving_may(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []

    async def close(kernels: KernelSupervisor) -> None:
        ended.append("a kernel")

    async def write(path: Path, data: bytes, *, expect: FileVersion | None = None) -> FileVersion:
        if path.name == "a.ipynb":
            await trio.sleep_forever()
        return await write_atomic(path, data, expect=expect)

    monkeypatch.setattr(KernelSupervisor, "close", close)
    monkeypatch.setattr("daemon.saving.write_atomic", write)
    monkeypatch.setattr("daemon.rooms.SAVE_SECONDS", 0.2)
    monkeypatch.setattr("daemon.rooms.END_SECONDS", 0.2)
    async with running(root) as daemon:
        await edited(daemon, "a.ipynb")
        await edited(daemon, "b.ipynb")
        await daemon.hub.close_all(save=True)
        assert ended == ["a kernel"]
        assert source(root / "b.ipynb") == EDITED


async def test_what_a_failed_room_held_is_kept_though_the_daemon_ends_at_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_answers = trio.Event()

    async def write(path: Path, data: bytes) -> None:
        await disk_answers.wait()
        await write_new(path, data)

    monkeypatch.setattr("daemon.unsaved.write_new", write)
    async with running(root) as daemon:
        room, _ = await edited(daemon)
        fail_in_writer(room)
        await room.ended.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(daemon.hub.close_all, save=True))
            await wait_all_tasks_blocked()
            disk_answers.set()
        assert [source(copy) for copy in copies(root)] == [EDITED]


async def test_a_copy_of_a_failed_room_that_takes_too_long_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def write(path: Path, data: bytes) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr("daemon.unsaved.write_new", write)
    monkeypatch.setattr("daemon.rooms.END_SECONDS", 0.05)
    with capture_logs() as logs:
        async with running(root) as daemon:
            room, _ = await edited(daemon)
            fail_in_writer(room)
            await room.ended.wait()
            await daemon.hub.close_all(save=True)
    [lost] = [record for record in logs if "is lost" in record["event"]]
    assert (lost["log_level"], lost["path"]) == ("error", "a.ipynb")


async def test_an_output_that_makes_no_sense_costs_itself_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(manifest: Mapping[str, Any], load: Load) -> dict[str, Any]:
        if manifest["output_type"] == "display_data":
            raise InvalidValue("no output")
        return decode_manifest(manifest, load)

    html = {"output_type": "display_data", "data": {"text/html": "x"}, "metadata": {}}
    text = {"output_type": "stream", "name": "stdout", "text": "kept\n"}
    async with running(root) as daemon:
        daemon.write("a.ipynb", [{**CELLS[0], "outputs": [html, text]}])
        room = await daemon.open()
        await edit(await daemon.connect(room), room)
        monkeypatch.setattr("daemon.saving.decode_manifest", decode)
        fail_in_writer(room)
        await room.ended.wait()
        await daemon.hub.close_all(save=True)
        [copy] = copies(root)
        assert source(copy) == EDITED
        line, kept = json.loads(copy.read_text())["cells"][0]["outputs"]
        assert ("can't be read" in "".join(line["text"]), kept["text"]) == (True, ["kept\n"])


async def test_a_room_that_fails_while_it_is_closed_is_no_success(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(root) as daemon:
        room, _ = await edited(daemon)

        async def fail_meanwhile() -> None:
            fail_in_writer(room)
            await room.ended.wait()

        monkeypatch.setattr(room.kernels, "close", fail_meanwhile)
        with pytest.raises(ApiError, match="failed") as refused:
            await daemon.hub.close_notebook(room.id)
        assert refused.value.status == 500


@pytest.mark.parametrize("executed", [False, True])
async def test_what_peers_do_while_the_file_is_loaded_is_saved(
    root: Path, monkeypatch: pytest.MonkeyPatch, executed: bool
) -> None:
    load, loaded = trio.Event(), trio.Event()

    async def slowly(room: Room, notebook: LoadedNotebook) -> None:
        await load_into(room, notebook)
        loaded.set()
        await load.wait()

    monkeypatch.setattr("daemon.room.load_into", slowly)
    async with running(root) as daemon, trio.open_nursery() as nursery:
        daemon.write("a.ipynb")
        info, _ = await daemon.hub.open_notebook("a.ipynb", create=False, kernel_name=None)
        [room] = daemon.hub.rooms.values()
        assert room.id == info.id
        await loaded.wait()
        client = await daemon.connect(room)
        if executed:
            await ask(client, room, "execute_cell", cell_id="a")
        else:
            await edit(client, room)
        nursery.start_soon(daemon.hub.close_notebook, room.id)
        await wait_all_tasks_blocked()
        assert not room.ended.is_set(), "it waits for the rest"
        before = (root / "a.ipynb").stat().st_ino
        load.set()
        await room.file.loaded.wait()
        assert file_of(room)["status"] == "ready"
        assert file_of(room)["saved_notebook_heads"] == [], "no heads are those of the file"
        await room.ended.wait()
        assert source(root / "a.ipynb") == ("1" if executed else EDITED)
        assert (root / "a.ipynb").stat().st_ino != before, "it was written"


async def test_outputs_that_are_cleared_while_the_file_is_loaded_are_cleared_in_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = {"output_type": "stream", "name": "stdout", "text": "old"}

    async def cleared(room: Room, notebook: LoadedNotebook) -> None:
        await load_into(room, notebook)
        room.runtime.clear_outputs(["a"])

    monkeypatch.setattr("daemon.room.load_into", cleared)
    async with running(root) as daemon:
        daemon.write("a.ipynb", [{**CELLS[0], "outputs": [output]}])
        room = await daemon.open()
        await daemon.hub.close_notebook(room.id)
        assert json.loads((root / "a.ipynb").read_text())["cells"][0]["outputs"] == []


@pytest.mark.parametrize("at_the_end", [False, True])
async def test_a_notebook_that_nobody_touched_need_not_be_loaded_to_be_closed(
    root: Path, monkeypatch: pytest.MonkeyPatch, at_the_end: bool
) -> None:
    async def never(room: Room, notebook: LoadedNotebook) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr("daemon.room.load_into", never)
    async with running(root) as daemon:
        daemon.write("a.ipynb")
        info, _ = await daemon.hub.open_notebook("a.ipynb", create=False, kernel_name=None)
        with trio.fail_after(5):
            await (daemon.hub.close_all(save=True) if at_the_end else daemon.hub.close_notebook(info.id))
        assert daemon.hub.rooms == {}
        assert source(root / "a.ipynb") == "1"


async def test_what_is_kept_was_rendered_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(root) as daemon:
        await edited(daemon)
        change_outside(root / "a.ipynb")

        async def render(room: Room, outputs: str = "all") -> RenderedNotebook:
            raise AssertionError("there is no time for it")

        monkeypatch.setattr("daemon.unsaved.render_room", render)
        await daemon.hub.close_all(save=True)
        assert [source(copy) for copy in copies(root)] == [EDITED]


# Saving.


async def test_another_open_notebook_is_not_saved_over(root: Path) -> None:
    async with running(root) as daemon:
        room, client = await edited(daemon)
        daemon.write("other.ipynb")
        other = await daemon.open("other.ipynb")
        before = (root / "other.ipynb").read_bytes()
        (root / "link.ipynb").symlink_to(root / "other.ipynb")
        for path in ("other.ipynb", str(root / "other.ipynb"), "link.ipynb"):
            assert await ask(client, room, "save_notebook", path=path) == "conflict"
        assert (root / "other.ipynb").read_bytes() == before
        await daemon.hub.close_notebook(other.id)
        assert await ask(client, room, "save_notebook", path="other.ipynb") == "ok"
        assert source(root / "other.ipynb") == EDITED


async def test_a_file_is_not_opened_while_another_notebook_is_written_to_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(root) as daemon:
        room, _ = await edited(daemon)
        daemon.write("other.ipynb")
        async with room.reserve(root / "other.ipynb"), trio.open_nursery() as nursery:
            nursery.start_soon(daemon.open, "other.ipynb")
            await wait_all_tasks_blocked()
            assert list(daemon.hub.rooms.values()) == [room]
            nursery.cancel_scope.cancel()
        assert await daemon.open("other.ipynb") in daemon.hub.rooms.values()


async def test_the_path_that_was_written_is_relative_to_the_root(root: Path) -> None:
    (root / "sub").mkdir()
    async with running(root) as daemon:
        room, _ = await edited(daemon)
        for path in ("b.ipynb", "sub/b.ipynb"):
            assert (await room.save(room.resolve(str(root / path))))["path"] == path
        assert (await room.save())["path"] == "a.ipynb"
        assert (await room.save(root / "a.ipynb"))["path"] == "a.ipynb"


@pytest.mark.parametrize(
    "harmless",
    [
        lambda path: os.utime(path, (1, 1)),
        lambda path: path.chmod(0o600),
        lambda path: path.write_bytes(path.read_bytes()),
        lambda path: path.unlink(),
    ],
    ids=["touched", "other permissions", "written again", "removed"],
)
async def test_a_file_that_holds_the_same_or_nothing_is_saved(root: Path, harmless: Callable[[Path], None]) -> None:
    async with running(root) as daemon:
        room, client = await edited(daemon)
        for _ in range(2):
            harmless(root / "a.ipynb")
            assert await ask(client, room, "save_notebook") == "ok"
            assert source(root / "a.ipynb") == room_source(room)
            await edit(client, room, "!")
        assert file_of(room)["status"] == "ready"
        await daemon.hub.close_notebook(room.id)
        assert copies(root) == []


@pytest.mark.usefixtures("nobody_is_root")
async def test_a_refused_save_says_what_the_file_is_until_one_works(root: Path) -> None:
    async with running(root) as daemon:
        room, client = await edited(daemon)
        path = root / "a.ipynb"
        path.chmod(0o444)
        assert await ask(client, room, "save_notebook") == "forbidden"
        await room.writer.flush()
        assert file_of(room)["status"] == "read_only"
        assert file_of(room)["error"] == "the file is read-only"
        path.chmod(0o644)
        assert await ask(client, room, "save_notebook") == "ok"
        await room.writer.flush()
        assert file_of(room)["status"] == "ready"
        assert "error" not in file_of(room)
        assert file_of(room)["saved_notebook_heads"] == heads_to_hex(room.notebook.heads())


# Opening again.


async def test_a_file_that_changed_while_nobody_was_there_is_read_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.room.AWAY_SECONDS", 0)
    async with running(root) as daemon:
        daemon.write("a.ipynb")
        room = await daemon.open()
        os.utime(root / "a.ipynb", (1, 1))
        assert await daemon.open() is room, "it holds the same"
        change_outside(root / "a.ipynb")
        again = await daemon.open()
        assert again is not room
        assert room.closed
        assert room_source(again) == "theirs"
        assert source(root / "a.ipynb") == "theirs"


@pytest.mark.parametrize("what", ["a peer", "an edit", "a kernel", "something queued", "a peer that may come back"])
async def test_a_notebook_that_somebody_needs_stays_and_says_that_its_file_changed(
    root: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if what != "a peer that may come back":
        monkeypatch.setattr("daemon.room.AWAY_SECONDS", 0)
    async with running(root) as daemon:
        daemon.write("a.ipynb")
        room = await daemon.open()
        client = await daemon.connect(room)
        if what == "an edit":
            await edit(client, room)
        if what == "something queued":
            assert await ask(client, room, "execute_cell", cell_id="a") == "ok"
        if what == "a kernel":
            room.runtime.kernel_starting("python3", "python", restarting=False)
        if what != "a peer":
            client.socket.leave()
            await wait_all_tasks_blocked()
            assert daemon.hub.connections == set()
        before = (root / "a.ipynb").read_bytes()
        change_outside(root / "a.ipynb")
        for _ in range(2):
            assert await daemon.open() is room
            assert file_of(room)["status"] == "conflict"
            assert "since it was opened" in file_of(room)["error"]
        # It is as it was: so is the notebook.
        (root / "a.ipynb").write_bytes(before)
        assert await daemon.open() is room
        assert file_of(room)["status"] == "ready"
        assert "error" not in file_of(room)
        (root / "a.ipynb").unlink()
        assert await daemon.open() is room
        assert file_of(room)["status"] == "missing"


async def test_a_file_that_another_program_makes_meanwhile_is_theirs(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slower(notebook: SavedNotebook) -> bytes:
        (root / "new.ipynb").write_text(THEIRS)
        return render_notebook(notebook)

    monkeypatch.setattr("daemon.opening.render_notebook", slower)
    async with running(root) as daemon:
        _, created = await daemon.hub.open_notebook("new.ipynb", create=True, kernel_name=None)
        [room] = daemon.hub.rooms.values()
        await room.file.loaded.wait()
        assert (created, room_source(room)) == (False, "theirs")


async def test_a_roll_over_while_the_file_is_written_is_no_edit(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(root) as daemon:
        room, _ = await edited(daemon)

        async def write_slowly(path: Path, data: bytes, **options: Any) -> FileVersion:
            monkeypatch.undo()
            succession = room.writer.begin_succession(b"s" * 16)
            succession.catch_up()
            await room.writer.succeed()
            return await write_atomic(path, data, **options)

        monkeypatch.setattr("daemon.saving.write_atomic", write_slowly)
        await room.save()
        await room.writer.flush()
        assert room.writer.successions == 1
        assert not room.file.edited
        assert file_of(room)["saved_notebook_heads"] == heads_to_hex(room.notebook.heads())
