"""The handle of one live kernel: requests go out here, and replies that somebody waits for come back."""

import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias

import trio

from kernel_bridge.core.correspondence import Correspondence, Purpose
from kernel_bridge.core.messages import Header, KernelInfoReply, KernelMessage, Reply
from kernel_bridge.core.send_queue import can_lift, lift_request, was_lifted
from kernel_bridge.core.trace import TraceEntry
from kernel_bridge.core.unread import Unread
from kernel_bridge.core.wire import DecoderCounts, MessageEncoder
from kernel_bridge.kernelspecs import KernelSpec
from kernel_bridge.launcher import KernelProcess
from kernel_bridge.zmq_socket import ZmqSocket

RequestChannel: TypeAlias = Literal["shell", "control", "stdin"]

# From SIGTERM to SIGKILL. A kernel that did not answer its shutdown_request has nothing left to save.
TERMINATE_SECONDS: Final = 1.0
# These only look; run in a subshell they answer while a cell runs, and no execute_request waits behind them.
_SIDE_REQUESTS: Final = frozenset({"complete_request", "inspect_request", "is_complete_request", "history_request"})


class KernelGone(Exception):
    """The kernel's process ended."""


class KernelUnread(Exception):
    """The kernel has left the last 1 000 messages of a channel unread, or 128 MiB; it may take more when it reads again."""


@dataclass(frozen=True, slots=True)
class KernelStatistics:
    """Counters since the kernel's start.

    Attributes:
        received: what each channel's decoder met.
        send_queue_lifted: whether ipykernel said that its iopub queue has no limit; None before it answered, and for
            kernels that cannot be asked.
        connected: whether its iopub and shell connections stand.
        reconnections: how often one of them broke and was made again.
        heartbeats_missed: unanswered ones; says nothing of a hang, since another thread answers them.
        rechecks: sends that had swallowed a reader's wake-up.
    """

    received: Mapping[str, DecoderCounts]
    sent: Mapping[str, int]
    send_queue_lifted: bool | None
    connected: bool
    reconnections: int
    heartbeats_missed: int
    stdout_bytes: int
    stderr_bytes: int
    rechecks: int


@dataclass(eq=False, slots=True)
class _Waiter:
    answered: trio.Event = field(default_factory=trio.Event)
    reply: KernelMessage | None = None


class Kernel:
    """One live kernel process. Made by `run_kernel`, which also feeds it the replies.

    Attributes:
        info: what the kernel said of itself.
        session: of our messages; `parent.session` of those that answer them.
        expected: its end was asked for.
        informed: whether `info` is the kernel's word yet.
    """

    def __init__(
        self,
        spec: KernelSpec,
        process: KernelProcess,
        encoder: MessageEncoder,
        sockets: Mapping[RequestChannel, ZmqSocket],
        record: Callable[[TraceEntry], None] | None = None,
    ) -> None:
        self.spec = spec
        self.info = KernelInfoReply()
        self.pid = process.pid
        self.session = encoder.session
        self.expected = False
        self.informed = False
        self.received: dict[str, DecoderCounts] = {}
        self.broken_links = 0
        self.reconnections = 0
        self.heartbeats_missed = 0
        self._process = process
        self._encoder = encoder
        self._sockets = sockets
        self._record = record
        self._sent: dict[str, int] = dict.fromkeys(sockets, 0)
        self._requests = 0
        self._correspondence = Correspondence()
        self._unread = Unread()
        self._waiters: dict[str, _Waiter] = {}
        self._lifted: bool | None = None
        self._subshell_id: str | None = None
        self._subshell_known: trio.Event | None = None
        self._ended = trio.Event()

    def new_msg_id(self) -> str:
        """An id that no other message has."""
        self._requests += 1
        return f"{self.session}_{self._requests}"

    def send(
        self,
        channel: RequestChannel,
        msg_type: str,
        content: Mapping[str, Any],
        *,
        msg_id: str | None = None,
        parent: Header | None = None,
        metadata: Mapping[str, Any] | None = None,
        buffers: Sequence[bytes] = (),
    ) -> str:
        """Sends a message, at once and without waiting; its replies come to the sink.

        Returns:
            Its msg_id.

        Raises:
            KernelGone: the process ended.
            KernelUnread: it left the last 1 000 messages of this channel unread, or 128 MiB.
        """
        msg_id = msg_id or self.new_msg_id()
        self._send(channel, msg_type, content, msg_id, parent=parent, metadata=metadata, buffers=buffers)
        if self._record is not None:
            self._record(
                TraceEntry(
                    at=trio.current_time(),
                    direction="sent",
                    channel=channel,
                    header=Header(msg_id=msg_id, msg_type=msg_type, session=self.session),
                    parent=parent or Header(),
                    metadata=dict(metadata or {}),
                    content=content,
                    buffers=[bytes(buffer) for buffer in buffers],
                )
            )
        return msg_id

    async def request(self, channel: RequestChannel, msg_type: str, content: Mapping[str, Any]) -> KernelMessage:
        """Sends a request and waits for its reply, for as long as that takes; timeouts are the caller's.

        Raises:
            KernelGone: the process ended.
            KernelUnread: it reads nothing.
        """
        subshell_id = None
        if channel == "shell" and msg_type in _SIDE_REQUESTS:
            subshell_id = await self._subshell()
        reply = await self._exchange(channel, msg_type, content, subshell_id)
        if subshell_id is not None and _knows_no_subshell(reply):
            # Code in a cell can delete subshells; then there is none, rather than a new one each time.
            self._subshell_id = None
            reply = await self._exchange(channel, msg_type, content, None)
        return reply

    async def interrupt(self) -> None:
        """Interrupts what runs, as the kernelspec says how; does not wait for the effect.

        Raises:
            KernelGone: the process ended.
            KernelUnread: it is interrupted by messages, and reads none.
        """
        await trio.lowlevel.checkpoint()
        if self._ended.is_set():
            raise KernelGone("the kernel's process ended")
        if self.spec.interrupt_mode == "message":
            self._send_own("control", "interrupt_request", {}, Purpose.INTERRUPT)
        else:
            self._process.signal_group(signal.SIGINT)

    async def shutdown(self, *, grace: float = 2.0) -> None:
        """Ends the process, politely for `grace` seconds, and returns when it is gone."""
        self.expected = True
        with suppress(KernelGone, KernelUnread):  # then there is nothing to ask
            self._send_own("control", "shutdown_request", {"restart": False}, Purpose.SHUTDOWN)
        for seconds, then in ((grace, signal.SIGTERM), (TERMINATE_SECONDS, signal.SIGKILL)):
            with trio.move_on_after(seconds):
                await self._ended.wait()
                return
            self._process.signal_group(then)
        await self._ended.wait()

    def kill(self) -> None:
        """Ends the process and its children at once."""
        self.expected = True
        self._process.signal_group(signal.SIGKILL)

    def statistics(self) -> KernelStatistics:
        """Returns the counters as they are now."""
        return KernelStatistics(
            received=self.received,
            sent=dict(self._sent),
            send_queue_lifted=self._lifted,
            connected=self.broken_links == 0,
            reconnections=self.reconnections,
            heartbeats_missed=self.heartbeats_missed,
            stdout_bytes=self._process.stdout_bytes,
            stderr_bytes=self._process.stderr.written,
            rechecks=sum(socket.rechecks for socket in self._sockets.values()),
        )

    # What run_kernel calls.

    def nudge(self) -> None:
        """Asks for kernel_info; the replies are not the sink's."""
        self._send_own("shell", "kernel_info_request", {}, Purpose.NUDGE)

    def lift_send_queue(self) -> None:
        """Lifts the limit of the kernel's iopub queue for the connections it now has, where that can be done."""
        if can_lift(self.info):
            # In the subshell, where there is one: after a reconnect a cell may be running.
            self._send_own("shell", "execute_request", lift_request(), Purpose.LIFT, self._subshell_id)

    def accept(self, message: KernelMessage) -> bool:
        """Takes a message that is the bridge's own or that somebody waits for; returns whether it is the sink's."""
        self._unread.seen(message.parent.msg_id)
        match self._correspondence.route(message):
            case "sink":
                return True
            case "awaited":
                waiter = self._waiters[message.parent.msg_id]
                waiter.reply = waiter.reply or message
                waiter.answered.set()
            case Purpose.NUDGE if isinstance(message.content, KernelInfoReply):
                self.info = message.content
                self.informed = True
            case Purpose.LIFT:
                self._lifted = was_lifted(message.content)
            case Purpose.SUBSHELL:
                self._subshell_created(message)
            case _:
                pass
        return False

    def reconnected(self) -> None:
        """A connection that broke was made again."""
        self.broken_links -= 1
        self.reconnections += 1
        self._unread.clear()
        if self._subshell_known is not None and not self._subshell_known.is_set():
            # The request for one, or its reply, may be lost: who waits does without, and the next one asks anew.
            self._subshell_known.set()
            self._subshell_known = None

    def end(self) -> None:
        """The process ended: from now on every request raises KernelGone."""
        self._ended.set()

    def give_up_replies(self) -> None:
        """All that the kernel had sent was read: who still waits for a reply gets KernelGone."""
        for waiter in self._waiters.values():
            waiter.answered.set()
        if self._subshell_known is not None:
            self._subshell_known.set()

    # Inside.

    def _send_own(
        self,
        channel: RequestChannel,
        msg_type: str,
        content: Mapping[str, Any],
        purpose: Purpose,
        subshell_id: str | None = None,
    ) -> None:
        msg_id = self.new_msg_id()
        self._correspondence.note_own(msg_id, purpose)
        self._send(channel, msg_type, content, msg_id, subshell_id=subshell_id)

    def _send(
        self,
        channel: RequestChannel,
        msg_type: str,
        content: Mapping[str, Any],
        msg_id: str,
        *,
        parent: Header | None = None,
        metadata: Mapping[str, Any] | None = None,
        subshell_id: str | None = None,
        buffers: Sequence[bytes] = (),
    ) -> None:
        if self._ended.is_set():
            raise KernelGone("the kernel's process ended")
        frames = self._encoder.encode(
            msg_type,
            content,
            msg_id=msg_id,
            date=datetime.now(UTC).isoformat(),
            parent=parent,
            metadata=metadata,
            subshell_id=subshell_id,
            buffers=buffers,
        )
        limited = channel == "shell" and msg_type != "execute_request"
        if (limited and self._unread.is_full) or not self._sockets[channel].send(frames):
            raise KernelUnread(f"the kernel reads nothing from {channel}")
        self._sent[channel] += 1
        if channel == "shell":
            self._unread.sent(msg_id, sum(map(len, frames)))

    async def _exchange(
        self, channel: RequestChannel, msg_type: str, content: Mapping[str, Any], subshell_id: str | None
    ) -> KernelMessage:
        msg_id = self.new_msg_id()
        waiter = self._waiters[msg_id] = _Waiter()
        self._correspondence.expect(msg_id)
        try:
            self._send(channel, msg_type, content, msg_id, subshell_id=subshell_id)
            await waiter.answered.wait()
        finally:
            del self._waiters[msg_id]
            self._correspondence.forget(msg_id)
        if waiter.reply is None:
            raise KernelGone("the kernel's process ended before it replied")
        return waiter.reply

    async def _subshell(self) -> str | None:
        """The subshell for side requests, made for the first one; None where the kernel has none."""
        if "kernel subshells" not in self.info.supported_features:
            return None
        if self._subshell_known is None:
            self._send_own("control", "create_subshell_request", {}, Purpose.SUBSHELL)
            # After the send, so that one that failed is tried again. Whoever else asks meanwhile waits for the same.
            self._subshell_known = trio.Event()
        await self._subshell_known.wait()
        return self._subshell_id

    def _subshell_created(self, message: KernelMessage) -> None:
        subshell_id = message.content.raw.get("subshell_id") if isinstance(message.content, Reply) else None
        self._subshell_id = subshell_id if isinstance(subshell_id, str) else None
        if self._subshell_known is not None:
            self._subshell_known.set()


def _knows_no_subshell(reply: KernelMessage) -> bool:
    return isinstance(reply.content, Reply) and reply.content.raw.get("ename") == "UnknownSubshellError"
