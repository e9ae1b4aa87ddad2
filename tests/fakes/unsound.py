"""A change that the Rust core takes, and with which it can't load again what it saves; only our own check keeps it out."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from sync.core.binding import ROOT, Replica, ScalarType
from sync.core.change_rows import KEY_STRING
from sync.core.changes import CheckedChange, check_change
from tests.fuzz.changes import ChangeParts, chunk_of

AUTHOR = b"\x77" * 16


def make_unsound(chunks: Sequence[bytes], key: str, other: str) -> CheckedChange:
    """Puts at `other` over the value that stands at `key`, both root keys as long as each other."""
    replica = Replica(AUTHOR)
    replica.apply(chunks)
    before = replica.heads()
    with replica.transaction() as tx:
        tx.put(ROOT, key, ScalarType.Str, "hostile")
    [change] = replica.changes_since(before)
    parts = ChangeParts.of(bytes(change.raw_bytes))
    assert len(key) == len(other)
    columns = [
        (column, data.replace(key.encode(), other.encode()) if column == KEY_STRING else data)
        for column, data in parts.columns
    ]
    return check_change(chunk_of(replace(parts, columns=columns).body()))


def let_it_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the check away that keeps such changes out, as if it had a hole."""
    monkeypatch.setattr("sync.core.references._Made.check", lambda self, run, names: self.add(run, names))
