"""The proxy's own eyes: where frames end, however the stream is cut into pieces."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.tcp_proxy import FrameBoundaries

HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


def frame(size: int, *, masked: bool) -> bytes:
    """A binary frame as RFC 6455 has it (5.2)."""
    if size < 126:
        head = bytes((0x82, masked << 7 | size))
    elif size < 2**16:
        head = bytes((0x82, masked << 7 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x82, masked << 7 | 127)) + size.to_bytes(8, "big")
    return head + b"mask" * masked + b"x" * size


@given(
    sizes=st.lists(st.sampled_from([0, 1, 125, 126, 127, 3_000, 65_535, 65_536, 70_000]), min_size=1, max_size=5),
    masked=st.booleans(),
    data=st.data(),
)
def test_boundaries_are_found_whatever_the_pieces(sizes: list[int], masked: bool, data: st.DataObject) -> None:
    stream, ends = HEAD, [len(HEAD)]
    for size in sizes:
        stream += frame(size, masked=masked)
        ends.append(len(stream))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)) | {0, len(stream)})
    boundaries, found = FrameBoundaries(), []
    for start, stop in pairwise(cuts):
        at = start
        while (used := boundaries.first_end(stream[at:stop])) is not None:
            at += used
            found.append(at)

    assert found == ends
    assert boundaries.passed == len(sizes)
