"""Blobs that no open notebook names go, when they are no longer young."""

import json
from contextlib import nullcontext
from pathlib import Path

import trio

from daemon.collecting import BlobCollector
from daemon.core.notebook_file import parse_notebook
from daemon.files import FileContent, read_file
from daemon.room import Room, new_id
from sync.blobs import BlobStore
from sync.core.value_writing import encode_text


async def open_room(path: Path, blobs: BlobStore, nursery: trio.Nursery) -> Room:
    content: FileContent = await read_file(path, 1_000_000)
    room = Room(
        path=path,
        unsaved=path.parent / "unsaved",
        loaded=parse_notebook(content.data, new_id),
        version=content.version,
        kernel_name=None,
        blobs=blobs,
        runtime_dir=path.parent,
        kernel_env={},
        show=str,
        resolve=Path,
        reserve=lambda path: nullcontext(),
        serve=lambda document: None,
        stop_serving=lambda document: None,
    )
    await nursery.start(room.run)
    await room.file.loaded.wait()
    return room


async def test_what_a_room_names_stays_and_what_it_cleared_goes(tmp_path: Path, nursery: trio.Nursery) -> None:
    kept, cleared, nobodys = "k" * 5000, "c" * 5000, "n" * 5000
    cells = [
        {
            "cell_type": "code",
            "id": name,
            "metadata": {},
            "execution_count": 1,
            "source": "",
            "outputs": [{"output_type": "stream", "name": "stdout", "text": text}],
        }
        for name, text in (("a", kept), ("b", cleared))
    ]
    path = tmp_path / "n.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    blobs = BlobStore(tmp_path / "blobs")
    room = await open_room(path, blobs, nursery)
    await blobs.put_all(encode_text(nobodys)[1])
    room.runtime.clear_outputs(["b"])
    await room.writer.flush()
    collector = BlobCollector(blobs, lambda: [room])

    assert await collector.collect(600) == 0, "all of them are young"
    assert await collector.collect(-1) == 2

    [survivor] = encode_text(kept)[1]
    assert await blobs.read(survivor.hash) == kept.encode()
    nursery.cancel_scope.cancel()
