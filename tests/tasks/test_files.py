import errno
import os
from pathlib import Path

import pytest
import trio

from daemon.files import (
    FileChanged,
    FileUnreadable,
    FileUnwritable,
    NotIpynb,
    OutsideRoot,
    PathRefused,
    read_file,
    remove_leftovers,
    resolve_inside,
    same_version,
    write_atomic,
    write_new,
)

MAX = 1_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "sub").mkdir(parents=True)
    return (tmp_path / "root").resolve()


def test_paths_inside_the_root_are_resolved_whether_they_exist_or_not(root: Path) -> None:
    (root / "sub" / "a.ipynb").write_text("")
    (root / "link.ipynb").symlink_to(root / "sub" / "a.ipynb")
    assert resolve_inside(root, "new.ipynb") == root / "new.ipynb"
    assert resolve_inside(root, "sub/../sub/a.ipynb") == root / "sub" / "a.ipynb"
    assert resolve_inside(root, root / "sub" / "a.ipynb") == root / "sub" / "a.ipynb"
    assert resolve_inside(root, "link.ipynb") == root / "sub" / "a.ipynb"
    (root.parent / "way_in").symlink_to(root)
    assert resolve_inside(root.parent / "way_in", root.parent / "way_in" / "x.ipynb") == root / "x.ipynb"


@pytest.mark.parametrize("path", ["../x.ipynb", "/etc/x.ipynb", "sub/../../x.ipynb", "out/x.ipynb", "out.ipynb"])
def test_what_leads_out_of_the_root_is_refused(root: Path, path: str) -> None:
    (root / "out").symlink_to(root.parent)
    (root / "out.ipynb").symlink_to(root.parent / "target.ipynb")
    with pytest.raises(OutsideRoot):
        resolve_inside(root, path)


@pytest.mark.parametrize("path", ["a.py", "", ".", "sub", "a.ipynb/", "a.IPYNB", "link.ipynb"])
def test_what_is_no_ipynb_is_refused_also_behind_a_link(root: Path, path: str) -> None:
    (root / "link.ipynb").symlink_to(root / "secret.txt")
    with pytest.raises(NotIpynb):
        resolve_inside(root, path)


def test_a_name_that_is_no_text_is_refused_also_behind_a_link(root: Path) -> None:
    odd = os.fsencode(root) + b"/\xff.ipynb"
    try:
        os.close(os.open(odd, os.O_WRONLY | os.O_CREAT))
    except OSError:
        pytest.skip("this file system has no such names")
    os.symlink(odd, os.fsencode(root / "link.ipynb"))
    with pytest.raises(PathRefused, match="no text"):
        resolve_inside(root, "link.ipynb")


@pytest.mark.parametrize("path", ["a\0.ipynb", "x" * 5000 + ".ipynb", "loop.ipynb", "file.ipynb/b.ipynb"])
def test_what_is_no_path_is_refused(root: Path, path: str) -> None:
    (root / "loop.ipynb").symlink_to(root / "loop.ipynb")
    (root / "file.ipynb").write_text("")
    with pytest.raises(PathRefused):
        resolve_inside(root, path)


async def test_a_file_is_read_whole_with_its_version(root: Path) -> None:
    path = root / "a.ipynb"
    path.write_bytes(b"content")
    content = await read_file(path, MAX)
    assert content.data == b"content"
    assert await same_version(path, content.version) == content.version
    path.write_bytes(b"changed")
    assert await same_version(path, content.version) is None


async def test_a_file_that_was_touched_or_written_alike_is_the_same_with_another_stamp(root: Path) -> None:
    path = root / "a.ipynb"
    path.write_bytes(b"content")
    version = (await read_file(path, MAX)).version

    def rewrite() -> None:
        path.unlink()
        path.write_bytes(b"content")

    for touch in (lambda: os.utime(path, (1, 1)), lambda: path.chmod(0o600), rewrite):
        touch()
        found = await same_version(path, version)
        assert found is not None
        assert found.digest == version.digest
        assert found.stamp != version.stamp
        version = found
    for other in (b"contend", b"content, and more", b""):
        path.write_bytes(other)
        os.utime(path, (1, 1))
        assert await same_version(path, version) is None


async def test_a_missing_file_is_said_to_be_missing(root: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await read_file(root / "a.ipynb", MAX)
    version = await write_atomic(root / "a.ipynb", b"")
    (root / "a.ipynb").unlink()
    with pytest.raises(FileNotFoundError):
        await same_version(root / "a.ipynb", version)


async def test_what_was_there_before_is_not_overwritten_by_a_new_file(root: Path) -> None:
    path = root / "a.ipynb"
    await write_new(path, b"first")
    assert path.stat().st_mode & 0o7777 == 0o600
    with pytest.raises(FileExistsError):
        await write_new(path, b"second")
    assert path.read_bytes() == b"first"
    with pytest.raises(FileUnwritable):
        await write_new(root / "nowhere" / "a.ipynb", b"x")
    assert sorted(os.listdir(root)) == ["a.ipynb", "sub"]


async def test_what_is_no_regular_file_is_unreadable_and_nothing_hangs(root: Path) -> None:
    path = root / "a.ipynb"
    os.mkfifo(path)
    with trio.fail_after(5), pytest.raises(FileUnreadable, match="regular"):
        await read_file(path, MAX)
    path.unlink()
    path.mkdir()
    with pytest.raises(FileUnreadable) as caught:
        await read_file(path, MAX)
    assert caught.value.reason == "it is a folder"


async def test_a_huge_file_is_refused_before_it_is_read(root: Path) -> None:
    path = root / "a.ipynb"
    with path.open("wb") as file:
        file.truncate(2 * 1024**3)  # sparse: it takes no room
    with pytest.raises(FileUnreadable, match="larger than"):
        await read_file(path, MAX)


async def test_a_write_replaces_the_content_and_keeps_the_permissions(root: Path) -> None:
    path = root / "a.ipynb"
    path.write_bytes(b"old")
    path.chmod(0o640)
    version = await write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o7777 == 0o640
    assert await same_version(path, version) is version, "by its stamp"
    assert sorted(os.listdir(root)) == ["a.ipynb", "sub"]


async def test_a_new_file_has_the_permissions_that_any_program_would_give_it(root: Path) -> None:
    await write_atomic(root / "a.ipynb", b"new")
    (root / "other").write_bytes(b"")
    assert (root / "a.ipynb").stat().st_mode == (root / "other").stat().st_mode


async def test_a_link_stays_a_link(root: Path) -> None:
    (root / "sub" / "a.ipynb").write_bytes(b"old")
    (root / "link.ipynb").symlink_to(Path("sub") / "a.ipynb")
    await write_atomic(root / "link.ipynb", b"new")
    assert (root / "link.ipynb").is_symlink()
    assert (root / "sub" / "a.ipynb").read_bytes() == b"new"
    assert os.listdir(root / "sub") == ["a.ipynb"]


async def test_a_file_that_somebody_else_changed_is_not_replaced(root: Path) -> None:
    path = root / "a.ipynb"
    version = await write_atomic(path, b"ours")
    path.write_bytes(b"them")
    with pytest.raises(FileChanged, match="somebody else"):
        await write_atomic(path, b"ours again", expect=version)
    assert path.read_bytes() == b"them"
    path.unlink()
    path.mkdir()
    with pytest.raises(FileChanged, match="folder"):
        await write_atomic(path, b"ours again", expect=version)
    assert sorted(os.listdir(root)) == ["a.ipynb", "sub"]


async def test_one_that_was_touched_is_replaced_and_one_that_is_gone_made_anew(root: Path) -> None:
    path = root / "a.ipynb"
    version = await write_atomic(path, b"ours")
    os.utime(path, (1, 1))
    version = await write_atomic(path, b"ours again", expect=version)
    assert path.read_bytes() == b"ours again"
    path.unlink()
    await write_atomic(path, b"and again", expect=version)
    assert path.read_bytes() == b"and again"


async def test_a_change_while_the_new_content_is_written_is_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root / "a.ipynb"
    version = await write_atomic(path, b"ours")
    os.utime(path, (1, 1))
    monkeypatch.setattr("daemon.files.fsync", lambda descriptor: path.write_bytes(b"them"))
    with pytest.raises(FileChanged, match="somebody else"):
        await write_atomic(path, b"ours again", expect=version)
    assert path.read_bytes() == b"them"
    assert sorted(os.listdir(root)) == ["a.ipynb", "sub"]


@pytest.mark.parametrize("step", ["fsync", "rename"])
async def test_a_disk_error_leaves_the_old_file_and_nothing_else(
    root: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = root / "a.ipynb"
    path.write_bytes(b"old")

    def fails(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"daemon.files.os.{step}", fails)
    with pytest.raises(FileUnwritable, match="No space left"):
        await write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert sorted(os.listdir(root)) == ["a.ipynb", "sub"]


async def test_a_file_is_not_written_where_it_cannot_be(root: Path) -> None:
    with pytest.raises(FileUnwritable, match="No such file"):
        await write_atomic(root / "missing" / "a.ipynb", b"new")
    with pytest.raises(FileUnwritable, match="folder"):
        await write_atomic(root / "sub", b"new")
    os.mkfifo(root / "pipe.ipynb")
    with trio.fail_after(5), pytest.raises(FileUnwritable, match="regular"):
        await write_atomic(root / "pipe.ipynb", b"new")


async def test_a_read_only_file_is_left_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root / "a.ipynb"
    path.write_bytes(b"old")
    path.chmod(0o444)
    if os.geteuid() == 0:  # for root nothing is read-only
        monkeypatch.setattr("daemon.files.os.access", lambda path, mode: False)
    with pytest.raises(FileUnwritable, match="read-only"):
        await write_atomic(path, b"new")
    assert path.read_bytes() == b"old"


async def test_old_leftovers_of_crashes_are_removed_and_fresh_ones_spared(root: Path) -> None:
    old, fresh, other = root / ".notebookd-0.tmp", root / ".notebookd-1.tmp", root / ".notebookd-2.ipynb"
    for path in (old, fresh, other):
        path.write_bytes(b"")
    os.utime(old, (1000, 1000))
    os.utime(fresh, (9000, 9000))
    os.utime(other, (1000, 1000))
    assert await remove_leftovers(root, now=10_000) == 1
    assert sorted(os.listdir(root)) == [".notebookd-1.tmp", ".notebookd-2.ipynb", "sub"]


async def test_readers_beside_a_writer_see_the_old_or_the_new_content(root: Path) -> None:
    path = root / "a.ipynb"
    contents = [bytes([number]) * 200_000 for number in range(10)]
    path.write_bytes(contents[0])
    seen: set[bytes] = set()
    written = trio.Event()

    async def reader() -> None:
        while not written.is_set():
            seen.add((await read_file(path, MAX)).data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        for content in contents:
            await write_atomic(path, content)
        written.set()
    assert seen <= set(contents)
