"""What stock clients write is never refused, however strictly changes are looked at: the other half of tests/fuzz."""

import json
import sys

import pytest
import trio

from sync.core.changes import check_changes
from sync.core.document import Document
from sync.core.identifiers import document_id
from sync.core.peer_changes import PeerChanges
from sync.core.steps import run_through
from sync.core.subscription import Subscription
from tests.fakes.stock_peer import SCRIPTS, node_executable
from tests.fuzz.changes import RefusedPeer, can_be_saved


async def take_histories(seed: int, histories: int, steps: int) -> int:
    """Has the stock library write random histories, and takes each into a document; how many changes that were."""
    command = [node_executable(), str(SCRIPTS / "histories.mjs"), str(seed), str(histories), str(steps)]
    done = await trio.run_process(command, capture_stdout=True)
    count = 0
    for line in done.stdout.splitlines():
        document, peer = Document(document_id(b"n" * 16)), RefusedPeer()
        changes = PeerChanges(document)
        subscription = Subscription(document, origin=None, writable=True)
        for chunk in json.loads(line):
            changes.add(peer, subscription, check_changes(bytes.fromhex(chunk)))
            taken = run_through(changes.taking())
            assert len(taken.changes) == 1, (peer.refused, chunk)
            count += 1
        assert can_be_saved(document)
    return count


async def test_random_histories_of_the_stock_library_are_taken_whole(capsys: pytest.CaptureFixture[str]) -> None:
    count = await take_histories(seed=1, histories=20, steps=60)
    with capsys.disabled():
        print(f"\nHonest histories: {count} changes of the stock library, none refused", file=sys.stderr)
    assert count > 500


@pytest.mark.soak
@pytest.mark.time_limit(1800)
@pytest.mark.parametrize("seed", range(2, 22))
async def test_many_random_histories_are_taken_whole(seed: int) -> None:
    assert await take_histories(seed, histories=50, steps=100) > 1000
