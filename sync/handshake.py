"""The first frames of a connection: join and peer."""

import trio

from sync.core.frames import ErrorFrame, Frame, Ignored, Join, Peer, ProtocolError, decode_frame, encode_frame
from sync.core.identifiers import PeerId
from sync.decoding import decoded
from sync.websocket import PeerSocket

# A stock client sends `join` with its first packet; who takes longer than this does not speak the protocol.
HANDSHAKE_SECONDS = 10
# How long a peer that broke the protocol is given to take the frame that says so.
LAST_WORDS_SECONDS = 1


async def shake_hands(socket: PeerSocket, own_id: PeerId) -> tuple[Join, list[bytes]]:
    """The peer's join, answered, and what it sent right behind it.

    Raises:
        ProtocolError: its first frame is no join that we take, or did not come in time; it was told why.
        SocketProtocolError, SocketClosed: as the socket has it.
    """
    with trio.move_on_after(HANDSHAKE_SECONDS):
        messages = await socket.receive()
        frame = await decoded(decode_frame, messages[0])
        objection = _objection(frame, own_id)
        if isinstance(frame, Join) and objection is None:
            await socket.send([encode_frame(Peer(own_id, frame.sender_id, "1", {"isEphemeral": False}))])
            return frame, messages[1:]
        if not isinstance(frame, Ignored):
            await socket.send([encode_frame(ErrorFrame(own_id, frame.sender_id, objection or ""))])
            await socket.finish(LAST_WORDS_SECONDS)
        raise ProtocolError(objection or "")
    raise ProtocolError(f"no join within {HANDSHAKE_SECONDS} s")


def _objection(frame: Frame, own_id: PeerId) -> str | None:
    """What is wrong with a first frame."""
    if not isinstance(frame, Join):
        return "the first frame must be join"
    if frame.supported_versions and "1" not in frame.supported_versions:
        return "this daemon speaks version 1 of the protocol"
    # What it says would pass for the daemon's own.
    return "this peer id is the daemon's" if frame.sender_id == own_id else None
