"""P1 as a property: over any schedule, no event reaches a peer before the state that it speaks of."""

import sys
from collections.abc import Collection

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sync.core.notices import Notice
from sync.core.outbox import Outbox
from sync.core.subscription import Subscription
from tests.fakes.simulated_network import SimulatedDaemon, SimulatedPeer

HELD = {"events": 0, "held": 0, "schedules": 0, "roll-overs": 0}


class EventBeforeFrame(Outbox):
    """A mutation: events are written when they come, whatever the peer was sent."""

    def _covered(self, notice: Notice) -> bool:
        return all(document_id in self.subscriptions for document_id, _ in notice.requires)


class ManyOutstanding(Outbox):
    """A mutation: frames follow each other before the peer's first acknowledgement."""

    class _Eager(Subscription):
        @property
        def waits_for_acknowledgement(self) -> bool:
            return False

    subscription_type = _Eager


class Schedules(RuleBasedStateMachine):
    """Commits, events, acknowledgements, concurrent edits, slow, fresh and reconnecting peers in any order."""

    outbox_type: type[Outbox] = Outbox

    @initialize()
    def begin(self) -> None:
        self.daemon = SimulatedDaemon(self.outbox_type)
        self.edits = 0
        self.daemon.connect(has_storage=True)

    def peer(self, index: int) -> SimulatedPeer:
        return self.daemon.peers[index % len(self.daemon.peers)]

    @rule(runtime=st.booleans(), size=st.sampled_from([1, 1, 60]), event=st.booleans(), cells=st.booleans())
    def commit(self, runtime: bool, size: int, event: bool, cells: bool) -> None:
        self.edits += 1
        daemon = self.daemon
        daemon.commit(daemon.runtime if runtime else daemon.notebook, self.edits, size)
        if event:
            daemon.announce(cells=cells)

    @rule(index=st.integers(0, 3))
    def network_is_fast(self, index: int) -> None:
        """Everything but the peer's storage moves on by one."""
        peer = self.peer(index)
        self.daemon.write(peer)
        while peer.to_peer:
            self.daemon.deliver(peer)
        while peer.to_daemon:
            self.daemon.hear(peer)

    @rule(index=st.integers(0, 3))
    def edit(self, index: int) -> None:
        peer = self.peer(index)
        replica = peer.replicas[self.daemon.notebook.id]
        if not replica.ready:
            return
        self.edits += 1
        with replica.document.transaction() as tx:
            from automerge import core

            tx.put(core.ROOT, f"p{self.edits}", core.ScalarType.Int, self.edits)
        peer.speak(self.daemon.notebook.id)

    @rule(index=st.integers(0, 3), times=st.integers(1, 3))
    def write(self, index: int, times: int) -> None:
        for _ in range(times):
            self.daemon.write(self.peer(index))

    @rule(index=st.integers(0, 3), times=st.integers(1, 6))
    def deliver(self, index: int, times: int) -> None:
        peer = self.peer(index)
        for _ in range(min(times, len(peer.to_peer))):
            self.daemon.deliver(peer)

    @rule(index=st.integers(0, 3), times=st.integers(1, 3))
    def hear(self, index: int, times: int) -> None:
        peer = self.peer(index)
        for _ in range(min(times, len(peer.to_daemon))):
            self.daemon.hear(peer)

    @rule(index=st.integers(0, 3), notebook=st.booleans(), which=st.integers(0, 5))
    def storage_answers(self, index: int, notebook: bool, which: int) -> None:
        peer = self.peer(index)
        document = self.daemon.notebook if notebook else self.daemon.runtime
        if document.id in peer.replicas and peer.replicas[document.id].loading:
            self.daemon.storage_answers(peer, document.id, which)

    @precondition(lambda self: len(self.daemon.peers) < 3)
    @rule(has_storage=st.booleans())
    def join(self, has_storage: bool) -> None:
        self.daemon.connect(has_storage=has_storage)

    @rule(index=st.integers(0, 3))
    def reconnect(self, index: int) -> None:
        peer = self.peer(index)
        self.daemon.disconnect(peer)
        self.daemon.connect(has_storage=peer.has_storage, replicas=peer.replicas)

    @invariant()
    def no_event_is_early(self) -> None:
        if hasattr(self, "daemon"):
            assert not self.daemon.early, self.daemon.early

    def teardown(self) -> None:
        if not hasattr(self, "daemon"):
            return
        if self.outbox_type is Outbox:
            self.daemon.settle()
            assert not self.daemon.early
            for peer in self.daemon.peers:
                for document in self.daemon.documents:
                    heads = peer.replicas[document.id].document.get_heads()
                    assert tuple(sorted(heads)) == document.log.heads(), "all replicas must converge"
            for peer in self.daemon.peers:
                HELD["held"] += peer.outbox.statistics.notices_held
                HELD["events"] += peer.events
            HELD["held"] += self.daemon.held
            HELD["roll-overs"] += self.daemon.roll_overs
            HELD["schedules"] += 1


class WithRollOvers(Schedules):
    """Another runtime document takes the place of the one before, and peers open it at once or late."""

    @precondition(lambda self: self.daemon.roll_overs < 3)
    @rule(opens_late=st.booleans(), index=st.integers(0, 3))
    def roll_over(self, opens_late: bool, index: int) -> None:
        self.peer(index).opens_late = opens_late
        self.daemon.roll_over()

    @precondition(lambda self: self.daemon.roll_overs)
    @rule(retire=st.booleans(), index=st.integers(0, 3))
    def peers_follow(self, retire: bool, index: int) -> None:
        if retire and self.daemon.replaced:
            self.daemon.retire()
        self.peer(index).follow(self.daemon.notebook.id)


class WithEventBeforeFrame(Schedules):
    outbox_type = EventBeforeFrame


class WithManyOutstanding(Schedules):
    outbox_type = ManyOutstanding


def explore(
    machine: type[Schedules], schedules: int, steps: int = 40, phases: Collection[Phase] = tuple(Phase)
) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=schedules,
            stateful_step_count=steps,
            derandomize=True,
            phases=phases,
            database=None,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("machine", [Schedules, WithRollOvers])
def test_no_event_is_early_over_random_schedules(machine: type[Schedules], capsys: pytest.CaptureFixture[str]) -> None:
    HELD.update(dict.fromkeys(HELD, 0))
    explore(machine, 300)

    with capsys.disabled():
        print(
            f"\nP1: {HELD['schedules']} schedules, {HELD['events']} events, {HELD['held']} times the gate held one, "
            f"{HELD['roll-overs']} roll-overs",
            file=sys.stderr,
        )
    assert HELD["held"] > 0
    assert (HELD["roll-overs"] > 0) == (machine is WithRollOvers)


@pytest.mark.soak
@pytest.mark.parametrize("machine", [Schedules, WithRollOvers])
def test_no_event_is_early_over_ten_thousand_schedules(machine: type[Schedules]) -> None:
    HELD.update(dict.fromkeys(HELD, 0))
    explore(machine, 10_000)

    print(
        f"P1: {HELD['schedules']} schedules, {HELD['events']} events, {HELD['held']} times the gate held one, "
        f"{HELD['roll-overs']} roll-overs"
    )
    assert HELD["held"] > 0
    assert (HELD["roll-overs"] > 0) == (machine is WithRollOvers)


@pytest.mark.parametrize("mutation", [WithEventBeforeFrame, WithManyOutstanding])
def test_the_property_fails_with_a_mutation(mutation: type[Schedules]) -> None:
    with pytest.raises(AssertionError, match="before its state"):
        # That it fails is the point; the smallest schedule that does is of no use.
        explore(mutation, 1_000, steps=60, phases=[Phase.generate])
