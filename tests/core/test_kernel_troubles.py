"""What a kernel did wrong is said, once for each kind, and never without bound."""

from daemon.core.kernel_troubles import MAX_LINES, KernelTroubles, is_oversize_output
from kernel_bridge.core import messages as k


def message(content: k.Content, msg_type: str = "", channel: k.Channel = "iopub") -> k.KernelMessage:
    header = k.Header(msg_id="m", msg_type=msg_type)
    return k.KernelMessage(channel=channel, header=header, parent=k.Header(), metadata={}, content=content)


def test_each_kind_is_said_once_for_each_channel_and_each_kernel() -> None:
    troubles = KernelTroubles()
    unsigned = message(k.Unreadable(kind="bad_signature", nbytes=7))
    line = troubles.note(unsigned)

    assert (
        line
        == "[notebookd: a message that is not signed with its key came from the kernel on iopub, and was dropped]\n"
    )
    assert troubles.note(message(k.Unreadable(kind="bad_signature", nbytes=8))) is None
    assert "on shell" in (troubles.note(message(k.Unreadable(kind="bad_signature", nbytes=8), channel="shell")) or "")
    assert "is no JSON" in (troubles.note(message(k.Unreadable(kind="bad_json", nbytes=8))) or "")
    troubles.clear()
    assert troubles.note(unsigned) == line


def test_content_of_a_known_type_that_does_not_fit_is_said_and_types_of_a_kernels_own_are_not() -> None:
    troubles = KernelTroubles()

    assert "(stream)" in (troubles.note(message(k.Unknown(raw=[1]), "stream")) or "")
    assert troubles.note(message(k.Unknown(raw={}), "debug_event")) is None
    assert troubles.note(message(k.Reply(status="ok"), "complete_reply")) is None


def test_a_size_or_a_type_of_the_kernels_choice_makes_no_flood() -> None:
    troubles = KernelTroubles()
    lines = [troubles.note(message(k.Oversize(nbytes=n), "x" * 10_000)) for n in range(10 * MAX_LINES)]

    assert [line is not None for line in lines].count(True) == MAX_LINES
    assert all(line is None or len(line) < 200 for line in lines)


def test_only_outputs_have_a_place_to_say_that_they_are_too_big() -> None:
    assert is_oversize_output(message(k.Oversize(nbytes=1), "display_data"))
    assert not is_oversize_output(message(k.Oversize(nbytes=1), "comm_msg"))
    assert not is_oversize_output(message(k.Stream(text="a"), "stream"))
