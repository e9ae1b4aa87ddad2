import errno
import os
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trio

from sync.blobs import BlobMissing, BlobStore, BlobStoreError
from sync.core.values import Blob


def blob(data: bytes, media_type: str = "text/plain") -> Blob:
    return Blob(sha256(data).hexdigest(), media_type, data)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


async def test_what_was_stored_is_read_back(store: BlobStore) -> None:
    small, empty = blob(b"hello"), blob(b"", "application/octet-stream")
    await store.put_all([small, empty])
    assert await store.read(small.hash) == b"hello"
    assert await store.read(empty.hash) == b""
    assert await store.read_all([small.hash, "0" * 64, empty.hash]) == {small.hash: b"hello", empty.hash: b""}
    info = await store.open(small.hash)
    assert info is not None
    assert (info.size, info.media_type, info.media_types) == (5, "text/plain", ("text/plain",))
    assert info.path.read_bytes() == b"hello"
    assert store.statistics().stored_bytes == 5


async def test_the_same_bytes_under_two_types_are_one_file_and_a_type_picks_one_that_was_stored(
    store: BlobStore,
) -> None:
    plain, code = blob(b"x"), blob(b"x", "image/svg+xml")
    await store.put_all([plain, code, plain])
    await store.put_all([code])
    info = await store.open(plain.hash)
    assert info is not None
    assert (info.media_type, info.media_types) == ("text/plain", ("text/plain", "image/svg+xml"))
    info = await store.open(plain.hash, "image/svg+xml")
    assert info is not None
    assert info.media_type == "image/svg+xml"
    assert await store.open(plain.hash, "text/html") is None
    assert await store.open(plain.hash, "IMAGE/SVG+XML; charset=utf-8") == info
    assert store.statistics().stored == 1


async def test_a_new_store_on_the_same_folder_knows_all(store: BlobStore) -> None:
    await store.put_all([blob(b"x", "text/css"), blob(b"x", "application/javascript")])
    info = await BlobStore(store.root).open(blob(b"x").hash)
    assert info is not None
    assert info.media_types == ("text/css", "application/javascript")


@pytest.mark.parametrize(
    "name", ["", "0" * 64, "A" * 64, "../" * 20 + "etc/passwd00", "é" * 64, "a" * 63 + "\0", "a" * 65, "a" * 63 + "/"]
)
async def test_unknown_and_malformed_hashes_are_not_there(store: BlobStore, name: str) -> None:
    assert await store.open(name) is None
    with pytest.raises(BlobMissing):
        await store.read(name)


async def test_a_crash_while_writing_leaves_nothing_under_a_name_and_the_next_start_cleans_up(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*paths: object) -> None:
        raise Killed

    # As after kill -9 between fsync and rename: nothing runs any more, so the temporary file stays.
    monkeypatch.setattr("sync.blobs.os.rename", killed)
    monkeypatch.setattr("sync.blobs.os.unlink", killed)
    with pytest.raises(Killed):
        await store.put_all([blob(b"half")])
    monkeypatch.undo()
    leftovers = list((store.root / "incoming").iterdir())
    assert len(leftovers) == 1
    assert await store.open(blob(b"half").hash) is None

    again = BlobStore(store.root)
    assert list((store.root / "incoming").iterdir()) == []
    await again.put_all([blob(b"half", "text/html")])
    info = await again.open(blob(b"half").hash, "text/html")
    assert info is not None
    assert await again.read(blob(b"half").hash) == b"half"


async def test_a_disk_error_says_what_the_disk_said_and_leaves_no_half_blob(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("sync.blobs.os.fsync", fsync)
    with pytest.raises(BlobStoreError, match="Input/output error"):
        await store.put_all([blob(b"x")])
    assert await store.open(blob(b"x").hash) is None
    assert list((store.root / "incoming").iterdir()) == []
    monkeypatch.undo()
    await store.put_all([blob(b"x")])
    assert await store.read(blob(b"x").hash) == b"x"


async def test_bytes_and_names_are_on_disk_when_put_all_returns(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file before its rename, and the folder after it."""
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def watched_fsync(descriptor: int) -> None:
        steps.append(os.readlink(f"/proc/self/fd/{descriptor}") if os.path.isdir("/proc/self/fd") else "?")
        fsync(descriptor)

    def watched_rename(source: Any, target: Any) -> None:
        steps.append(f"rename {target}")
        rename(source, target)

    monkeypatch.setattr("sync.blobs.os.fsync", watched_fsync)
    monkeypatch.setattr("sync.blobs.os.rename", watched_rename)
    item = blob(b"x")
    await store.put_all([item])
    folder = store.root / item.hash[:2]
    renamed = steps.index(f"rename {folder / item.hash[2:]}")
    assert len(steps) == 4
    assert "incoming" in steps[renamed - 1] or steps[renamed - 1] == "?"
    assert steps[renamed + 1] in (str(folder.resolve()), "?")


async def test_what_need_not_be_durable_waits_for_no_disk(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise AssertionError("waits for the disk")

    monkeypatch.setattr("sync.blobs.os.fsync", fsync)
    await store.put_all([blob(b"x")], durable=False)
    assert await store.read(blob(b"x").hash) == b"x"
    with pytest.raises(AssertionError, match="disk"):
        await store.put_all([blob(b"x")], durable=True)


async def test_what_a_power_cut_left_half_counts_as_missing_and_is_written_again(store: BlobStore) -> None:
    await store.put_all([blob(b"whole")], durable=False)
    info = await store.open(blob(b"whole").hash)
    assert info is not None
    info.path.write_bytes(b"")
    assert await store.open(blob(b"whole").hash) is None
    await store.put_all([blob(b"whole", "text/html")])
    assert await store.read(blob(b"whole").hash) == b"whole"
    assert await store.open(blob(b"whole").hash) is not None


async def test_the_folder_may_vanish_under_us(store: BlobStore) -> None:
    await store.put_all([blob(b"x")])
    for folder, _, names in os.walk(store.root, topdown=False):
        for name in names:
            os.unlink(os.path.join(folder, name))
        os.rmdir(folder)
    assert await store.open(blob(b"x").hash) is None
    await store.put_all([blob(b"x")])
    assert await store.read(blob(b"x").hash) == b"x"


async def test_bytes_that_changed_on_disk_are_not_given_out_as_the_blob(store: BlobStore) -> None:
    await store.put_all([blob(b"right")])
    info = await store.open(blob(b"right").hash)
    assert info is not None
    info.path.write_bytes(b"wrong")
    with pytest.raises(BlobStoreError, match="changed on disk"):
        await store.read(blob(b"right").hash)


async def test_the_collector_takes_what_is_neither_reachable_nor_young(store: BlobStore) -> None:
    kept, young, old = blob(b"kept"), blob(b"young"), blob(b"old")
    now = time.time()
    await store.put_all([kept, old, young, blob(b"old", "text/html")])
    for item in (kept, old):
        for path in (store.root / item.hash[:2]).glob(item.hash[2:] + "*"):
            os.utime(path, (now - 1000, now - 1000))
    assert await store.collect({kept.hash}, grace_seconds=600, now=now) == 1
    assert await store.open(old.hash) is None
    assert await store.read(kept.hash) == b"kept"
    assert await store.read(young.hash) == b"young"
    assert not list((store.root / old.hash[:2]).glob(old.hash[2:] + "*")), "its marks go with it"
    assert store.statistics().collected == 1


async def test_storing_an_old_blob_again_saves_it_from_the_collector(store: BlobStore) -> None:
    item, now = blob(b"x"), time.time()
    await store.put_all([item])
    info = await store.open(item.hash)
    assert info is not None
    os.utime(info.path, (now - 1000, now - 1000))
    await store.put_all([item])
    assert await store.collect([], grace_seconds=600, now=now) == 0
    assert store.statistics().repeated == 1


async def test_rooms_that_store_the_same_blobs_at_once_do_not_disturb_each_other(store: BlobStore) -> None:
    blobs = [blob(bytes([number]) * 2000, kind) for number in range(20) for kind in ("text/plain", "text/html")]
    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(store.put_all, blobs)
        nursery.start_soon(store.collect, [], 600, time.time())
    for item in blobs:
        info = await store.open(item.hash)
        assert info is not None
        assert sorted(info.media_types) == ["text/html", "text/plain"]
        assert await store.read(item.hash) == item.data


def test_a_root_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BlobStoreError, match="Not a directory"):
        BlobStore(tmp_path / "file" / "blobs")
