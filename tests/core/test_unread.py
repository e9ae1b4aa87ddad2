"""What the kernel has not shown to have read."""

from kernel_bridge.core.unread import MAX_UNREAD_BYTES, Unread


def test_what_is_answered_was_read_and_all_before_it() -> None:
    unread = Unread()
    for name, nbytes in (("a", 1), ("b", 10), ("c", 100)):
        unread.sent(name, nbytes)
    unread.seen("another's")
    assert unread.nbytes == 111
    unread.seen("b")
    assert unread.nbytes == 100
    unread.seen("b")
    unread.seen("a")
    assert unread.nbytes == 100
    unread.seen("c")
    assert unread.nbytes == 0


def test_beyond_the_bound_it_is_full_until_something_is_read() -> None:
    unread = Unread()
    unread.sent("a", MAX_UNREAD_BYTES - 1)
    assert not unread.is_full
    unread.sent("b", 1)
    assert unread.is_full
    unread.seen("a")
    assert not unread.is_full
    unread.sent("c", MAX_UNREAD_BYTES)
    unread.clear()
    assert not unread.is_full
