"""Changes that the core takes and can't save: found, and nothing is lost with them that need not be."""

import subprocess
import sys
from collections.abc import Sequence

import pytest

from sync.compact import UNSOUND, find_culprits, save
from sync.core.binding import ROOT, Replica, ScalarType
from sync.core.changes import CheckedChange, check_changes
from sync.core.document import Document
from sync.core.identifiers import document_id
from tests.fakes.unsound import make_unsound
from tests.fuzz.corpus import document_with, logged


def changes_by(actor: bytes, before: Sequence[CheckedChange], *keys: str) -> list[CheckedChange]:
    """A change for each key, one on the other, behind `before`."""
    replica = Replica(actor * 16)
    replica.apply([change.chunk for change in before])
    heads = replica.heads()
    for key in keys:
        with replica.transaction() as tx:
            tx.put(ROOT, key, ScalarType.Str, key)
    made = replica.changes_since(heads)
    return check_changes(b"".join(bytes(change.bytes) for change in made)) if made else []


HONEST = changes_by(b"\x01", [], *(f"key-{number:02}" for number in range(20)))
CULPRIT = make_unsound([change.chunk for change in HONEST[:10]], "key-03", "key-04")
BESIDE = HONEST[10:]
BEHIND = changes_by(b"\x02", [*HONEST[:10], CULPRIT], "later", "and-later")
ALL = [*HONEST[:10], CULPRIT, *BEHIND, *BESIDE]


def test_the_culprit_is_found_among_honest_changes() -> None:
    chunks = [change.chunk for change in ALL]
    assert save(chunks) is None
    assert find_culprits(chunks) == [CULPRIT.hash]
    assert save([change.chunk for change in HONEST]) is not None


def test_several_culprits_are_all_found() -> None:
    other = make_unsound([change.chunk for change in HONEST], "key-11", "key-12")
    # Of another author, or it would be the second change of the first.
    chunks = [change.chunk for change in [*HONEST[:10], CULPRIT, *BESIDE]]
    assert find_culprits([*(change.chunk for change in HONEST), other.chunk]) == [other.hash]
    assert find_culprits(chunks) == [CULPRIT.hash]


@pytest.mark.parametrize("sound", [True, False])
def test_the_process_gives_a_chunk_or_names_who_is_to_blame(sound: bool) -> None:
    changes = HONEST if sound else ALL
    done = subprocess.run(
        [sys.executable, "-P", "-m", "sync.compact"],
        input=b"".join(change.chunk for change in changes),
        capture_output=True,
        check=False,
    )
    if sound:
        assert done.returncode == 0
        assert Replica.load(done.stdout).heads() == (HONEST[-1].hash,)
    else:
        assert done.returncode == UNSOUND
        assert done.stdout.decode().split() == [CULPRIT.hash.hex()]


def test_a_document_goes_on_without_them() -> None:
    document = document_with(document_id(b"n" * 16), [*HONEST[:10], *BESIDE])
    document.set_snapshot(10, b"of what stays")
    for change in (CULPRIT, *BEHIND):
        _take(document, change)
    document.publish()
    assert document.has_unverified

    gone = document.discard([CULPRIT.hash])

    assert [change.hash for change in gone] == [CULPRIT.hash, *(change.hash for change in BEHIND)]
    assert document.heads() == document.replica.heads() == (HONEST[-1].hash,)
    assert document.published == len(document.log) == len(HONEST)
    assert document.operations == len(HONEST)
    assert document.newest_of(HONEST[0].actor) == (20, HONEST[-1].hash)
    assert document.newest_of(CULPRIT.actor) == (0, None)
    assert document.snapshot() == (10, b"of what stays"), "it holds none of them"
    assert Replica.load(document.replica.save()).heads() == document.heads()
    assert document.has_unverified, "who knows what else there is"


def test_a_chunk_of_what_was_taken_back_meanwhile_is_thrown_away() -> None:
    document = document_with(document_id(b"n" * 16), [*HONEST[:10], CULPRIT])
    position, _ = document.snapshot_source()
    document.discard([CULPRIT.hash])
    document.set_snapshot(position, b"too late")
    assert document.snapshot() is None


def _take(document: Document, change: CheckedChange) -> None:
    document.apply([(logged(change), change.actor, change.seq, change.op_count)])
