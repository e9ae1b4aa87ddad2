"""What a peer shows of a trait that it sets, whatever it hears meanwhile: with the daemon's registry, and a modelled kernel."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.core.own_values import OwnValues
from tests.fakes.widget_kernel import Notebook

MAXIMUM = 10


@dataclass
class Peer:
    """One client of the slider: it has the document as of commit `at`, and asks and is answered in order."""

    first: int
    own: OwnValues = field(default_factory=OwnValues)
    at: int = 0
    last: int | None = None
    asked: deque[int] = field(default_factory=deque)
    answers: deque[int] = field(default_factory=deque)

    def set(self) -> None:
        self.last = self.first if self.last is None else self.last + 1
        self.own.hold("s", {"value": self.last})
        self.asked.append(self.last)

    def hear_answer(self) -> None:
        """An answer comes behind the commit that it speaks of (P1)."""
        self.at = max(self.at, self.answers.popleft())
        self.own.release("s", ["value"])

    @property
    def waits(self) -> bool:
        return bool(self.asked or self.answers)


class Sliders:
    """A slider that clamps, and its peers; everything between them takes its time."""

    def __init__(self, *peers: Peer, echo: bool) -> None:
        self.peers = peers
        self.notebook = Notebook(echo=echo)
        self.notebook.widget("s", maximum=MAXIMUM)
        self.history: list[Any] = []
        self.commit()

    def commit(self) -> None:
        self.history.append(self.notebook.commit().state("s")["value"])

    def take(self, peer: Peer) -> None:
        """The daemon takes a peer's request; it is answered with the commit of its value."""
        self.notebook.set_by_peer("s", value=peer.asked.popleft())
        self.commit()
        peer.answers.append(len(self.history) - 1)

    def step(self, what: str, peer: Peer) -> None:
        match what:
            case "set":
                peer.set()
            case "take" if peer.asked:
                self.take(peer)
            case "read":
                self.notebook.kernel.read()
            case "hear":
                self.notebook.hear(2)
            case "commit":
                self.commit()
            case "pause":
                self.notebook.pause()
                self.commit()
            case "deliver":
                peer.at = min(peer.at + 1, len(self.history) - 1)
            case "answer" if peer.answers:
                peer.hear_answer()
            case _:
                pass

    def shown(self, peer: Peer) -> Any:
        return peer.own.of("s").get("value", self.history[peer.at])

    def settle(self) -> None:
        for peer in self.peers:
            while peer.asked:
                self.take(peer)
        self.notebook.settle()
        self.commit()
        for peer in self.peers:
            while peer.answers:
                peer.hear_answer()
            peer.at = len(self.history) - 1


STEPS = st.sampled_from(["set", "set", "take", "take", "read", "hear", "commit", "pause", "deliver", "answer"])


@pytest.mark.parametrize("echo", [True, False], ids=["echo", "no echo"])
@given(steps=st.lists(STEPS, max_size=60))
def test_a_hand_never_sees_an_older_value(steps: list[str], echo: bool) -> None:
    peer = Peer(first=1)
    sliders = Sliders(peer, echo=echo)
    for step in steps:
        sliders.step(step, peer)
        if peer.waits:
            assert sliders.shown(peer) == peer.last
        elif peer.last is not None:
            assert sliders.shown(peer) in (peer.last, min(peer.last, MAXIMUM))
    sliders.settle()
    end = sliders.notebook.kernel.models["s"].state["value"]
    assert end == min(peer.last or 0, MAXIMUM)
    assert sliders.shown(peer) == end


@pytest.mark.parametrize("echo", [True, False], ids=["echo", "no echo"])
@given(steps=st.lists(st.tuples(STEPS, st.integers(0, 1)), max_size=80))
def test_two_hands_see_their_own_values_and_end_equal(steps: list[tuple[str, int]], echo: bool) -> None:
    sliders = Sliders(Peer(first=1), Peer(first=-50), echo=echo)
    for step, number in steps:
        sliders.step(step, sliders.peers[number])
        for peer in sliders.peers:
            assert not peer.waits or sliders.shown(peer) == peer.last
    sliders.settle()
    end = sliders.notebook.kernel.models["s"].state["value"]
    assert [sliders.shown(peer) for peer in sliders.peers] == [end, end]


def test_an_own_value_stands_until_its_last_request_is_answered() -> None:
    own = OwnValues()
    own.hold("s", {"value": 1})
    own.hold("s", {"value": 2, "max": 9})
    assert own.of("s") == {"value": 2, "max": 9}
    own.release("s", ["value"])
    assert own.of("s") == {"value": 2, "max": 9}
    own.release("s", ["value", "max"])
    assert own.of("s") == own.of("other") == {}
