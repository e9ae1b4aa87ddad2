"""Which Output widget captures what."""

from hypothesis import given
from hypothesis import strategies as st

from daemon.core.capture import OutputCaptureRouter


def test_a_widget_captures_until_its_msg_id_is_empty() -> None:
    router = OutputCaptureRouter()
    assert router.target("request") is None
    router.set_msg_id("out", "request")
    assert (router.target("request"), router.target("other")) == ("out", None)
    assert router.capturing("out") == "request"
    router.set_msg_id("out", "")
    assert (router.target("request"), router.capturing("out")) == (None, None)


def test_leaving_the_inner_widget_gives_the_outer_one_back() -> None:
    router = OutputCaptureRouter()
    router.set_msg_id("outer", "request")
    router.set_msg_id("inner", "request")
    assert router.target("request") == "inner"
    router.set_msg_id("inner", "")
    assert router.target("request") == "outer"


def test_leaving_the_outer_widget_first_keeps_the_inner_one() -> None:
    router = OutputCaptureRouter()
    router.set_msg_id("outer", "request")
    router.set_msg_id("inner", "request")
    router.set_msg_id("outer", "")
    assert router.target("request") == "inner"


def test_a_widget_can_be_entered_again() -> None:
    router = OutputCaptureRouter()
    for _ in range(2):
        router.set_msg_id("out", "request")
        assert router.target("request") == "out"
        router.set_msg_id("out", "")
        assert router.target("request") is None


def test_a_repeated_state_does_not_bring_the_outer_widget_to_the_top() -> None:
    router = OutputCaptureRouter()
    router.set_msg_id("outer", "request")
    router.set_msg_id("inner", "request")
    router.set_msg_id("outer", "request")
    assert router.target("request") == "inner"


def test_another_msg_id_moves_the_widget() -> None:
    router = OutputCaptureRouter()
    router.set_msg_id("out", "request")
    router.set_msg_id("out", "callback")
    assert (router.target("request"), router.target("callback")) == (None, "out")


def test_a_closed_comm_captures_no_more() -> None:
    router = OutputCaptureRouter()
    router.set_msg_id("out", "request")
    router.close("out")
    router.close("unknown")
    assert router.target("request") is None


def test_a_restart_ends_all_captures() -> None:
    router = OutputCaptureRouter()
    router.set_msg_id("out", "request")
    router.clear()
    assert (router.target("request"), router.capturing("out")) == (None, None)


COMMS = st.sampled_from("abc")
MSG_IDS = st.sampled_from(["", "m", "n"])


@given(st.lists(st.tuples(COMMS, MSG_IDS)))
def test_the_widget_that_entered_last_captures(steps: list[tuple[str, str]]) -> None:
    router = OutputCaptureRouter()
    entered: list[tuple[str, str]] = []
    for comm_id, msg_id in steps:
        router.set_msg_id(comm_id, msg_id)
        if (comm_id, msg_id) not in entered:
            entered = [entry for entry in entered if entry[0] != comm_id]
            if msg_id:
                entered.append((comm_id, msg_id))
        for parent in ("m", "n"):
            captors = [entry[0] for entry in entered if entry[1] == parent]
            assert router.target(parent) == (captors[-1] if captors else None)
