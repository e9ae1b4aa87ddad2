"""run_kernel: one kernel's life, from its launch to the last message it sent.

    run_kernel
     ├ pipes       stdout is counted, the end of stderr is kept
     ├ monitors    connections made and broken
     ├ heartbeat   a statistic; the truth about the end is the process itself
     └ reading nursery, ends after the process
        ├ a reader each for iopub, shell, control, stdin: socket -> decoder -> sink, synchronously
        └ readiness: kernel_info_reply, and proof that the iopub subscription holds; then the handle is handed out

Whatever is fatal to the kernel kills its process group; the rest follows from the process's end.
"""

import itertools
import signal
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import structlog
import trio

from kernel_bridge.core.messages import Channel, Header, KernelMessage, Unreadable
from kernel_bridge.core.trace import TraceEntry, received_entry
from kernel_bridge.core.wire import MessageDecoder, MessageEncoder, Rejected, Signer
from kernel_bridge.kernel import Kernel, KernelGone, KernelUnread
from kernel_bridge.kernelspecs import KernelSpec
from kernel_bridge.launcher import (
    PIPES_SECONDS,
    REAP_SECONDS,
    ConnectionDirectory,
    KernelLaunchFailed,
    KernelProcess,
    check_descriptors,
)
from kernel_bridge.zmq_socket import ZmqContext, ZmqSocket, connection_event

# Another program may take a port between our looking and the kernel's bind; three times in a row it is something else.
PORT_ATTEMPTS: Final = 3
# The first answer to a nudge can come before the subscription holds, and then proves nothing; a kernel that starts
# slowly answers all of them at once.
NUDGE_SECONDS: Final = 0.5
MAX_NUDGE_SECONDS: Final = 8.0
# From the process's end to the end of its connections, which follows within a millisecond unless a child outside of
# the process group has inherited them.
DISCONNECT_SECONDS: Final = 1.0
HEARTBEAT_SECONDS: Final = 10.0
# Hashing takes 0.55 ms a MiB; in a thread it does so without the interpreter's lock.
THREAD_ABOVE: Final = 2**20
# Messages signed with another key come from somebody else who got hold of our ports; a kernel sends none.
UNTRUSTED_MESSAGES: Final = 10
UNTRUSTED_SECONDS: Final = 10.0
_LOGGED_REJECTIONS: Final = 3

log = structlog.get_logger(__name__)


class KernelSink(Protocol):
    """Where a kernel's messages go."""

    def receive(self, messages: Sequence[KernelMessage]) -> None:
        """Takes messages of one channel in the order of their arrival.

        Called in the Trio thread; must not block. Messages may come before `run_kernel` has handed out its handle. An
        exception ends the kernel.
        """


class SinkFailed(Exception):
    """The sink raised; the kernel was killed for it. The sink's exception is the cause."""


@dataclass(frozen=True)
class KernelExit:
    """How a kernel's process ended.

    Attributes:
        returncode: its exit code; None if a signal ended it, or if it could not be reaped.
        signal: the number of the signal that ended it.
        stderr_tail: the last that it wrote to stderr, at most 64 kB.
        expected: a shutdown or kill was asked for.
        message: why the bridge ended it, if it did.
    """

    returncode: int | None
    signal: int | None
    stderr_tail: str
    expected: bool
    message: str = ""


async def run_kernel(
    spec: KernelSpec,
    sink: KernelSink,
    *,
    cwd: Path,
    env: Mapping[str, str],
    runtime_dir: Path,
    ready_timeout: float = 60,
    record: Callable[[TraceEntry], None] | None = None,
    reconnected: Callable[[], None] | None = None,
    task_status: trio.TaskStatus[Kernel] = trio.TASK_STATUS_IGNORED,
) -> KernelExit:
    """Launches a kernel and serves it until its process ended and all that it had sent went to the sink.

    Cancelling it kills the process group. In any case no process of the group outlives it.

    Args:
        spec: which kernel.
        sink: gets what it says.
        cwd: the kernel's working directory.
        env: its whole environment; the kernelspec's own is added.
        runtime_dir: for the connection file and sockets; made if missing.
        ready_timeout: seconds from its launch until it must have answered.
        record: gets what goes to the sink and what `Kernel.send` sends, for a trace; `at` is Trio's clock.
        reconnected: called when a connection that broke was made again: messages on either way may be lost.
        task_status: gets the handle when the kernel has answered and its output cannot be missed any more.

    Raises:
        KernelLaunchFailed: it ended, or said nothing, before it was ready.
        SinkFailed: the sink raised.
    """
    for attempt in itertools.count(1):
        try:
            directory = await trio.to_thread.run_sync(ConnectionDirectory.create, runtime_dir, spec)
        except OSError as error:
            raise KernelLaunchFailed(f"cannot write the connection file: {error}") from error
        try:
            return await _Bridge(spec, sink, directory, record, reconnected).run(cwd, env, ready_timeout, task_status)
        except KernelLaunchFailed as error:
            taken = directory.info.transport == "tcp" and "address already in use" in error.stderr.lower()
            if not taken or attempt == PORT_ATTEMPTS:
                raise
            log.info("a port was taken meanwhile, launching again", kernel=spec.name)
        finally:
            directory.remove()
    raise AssertionError("unreachable")


@dataclass(eq=False, slots=True)
class _Link:
    """A monitored connection: `made` once, and `broken` while there is none."""

    socket: ZmqSocket
    made: bool = False
    broken: trio.Event = field(default_factory=trio.Event)


class _Bridge:
    def __init__(
        self,
        spec: KernelSpec,
        sink: KernelSink,
        directory: ConnectionDirectory,
        record: Callable[[TraceEntry], None] | None,
        reconnected: Callable[[], None] | None,
    ) -> None:
        self._spec = spec
        self._sink = sink
        self._directory = directory
        self._record = record
        self._tell_reconnected = reconnected
        self._signer = Signer(directory.info.key.encode())
        self._decoders: dict[Channel, MessageDecoder] = {
            channel: MessageDecoder(channel, self._signer) for channel in ("iopub", "shell", "control", "stdin")
        }
        self._iopub_proven = False
        self._ready = trio.Event()
        self._started = False
        self._failure: Exception | str | None = None
        self._timed_out = False
        self._patience = trio.CancelScope()
        self._bad_signatures: deque[float] = deque(maxlen=UNTRUSTED_MESSAGES)
        self._thread_limit = trio.CapacityLimiter(1)

    async def run(
        self, cwd: Path, env: Mapping[str, str], ready_timeout: float, task_status: trio.TaskStatus[Kernel]
    ) -> KernelExit:
        async with await KernelProcess.start(self._spec, self._directory.file, cwd, env) as process:
            self._process = process
            check_descriptors()
            context = ZmqContext()
            try:
                await self._serve(context, ready_timeout, task_status)
            finally:
                context.close()
        stderr = process.stderr.text()
        if isinstance(self._failure, SinkFailed):
            raise self._failure
        code = process.returncode
        if not self._started:
            if self._failure is None:
                how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
                raise KernelLaunchFailed(f"kernel {self._spec.name!r} ended before it was ready ({how})", stderr)
            message = f"kernel {self._spec.name!r} {self._failure}"
            raise KernelLaunchFailed(message, stderr, timed_out=self._timed_out)
        return KernelExit(
            returncode=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
            stderr_tail=stderr,
            expected=self._kernel.expected,
            message=str(self._failure or ""),
        )

    async def _serve(self, context: ZmqContext, ready_timeout: float, task_status: trio.TaskStatus[Kernel]) -> None:
        info = self._directory.info
        encoder = MessageEncoder(uuid.uuid4().hex, "notebookd", self._signer)
        identity = encoder.session.encode()
        iopub = context.connect_subscriber(info.endpoint("iopub"), monitored=True)
        shell = context.connect_dealer(info.endpoint("shell"), identity, monitored=True)
        control = context.connect_dealer(info.endpoint("control"), identity)
        stdin = context.connect_dealer(info.endpoint("stdin"), identity)
        heartbeat = context.connect_dealer(info.endpoint("hb"))
        sockets: dict[Channel, ZmqSocket] = {"iopub": iopub, "shell": shell, "control": control, "stdin": stdin}
        self._kernel = kernel = Kernel(
            self._spec, self._process, encoder, {"shell": shell, "control": control, "stdin": stdin}, self._record
        )
        kernel.received = {channel: decoder.counts for channel, decoder in self._decoders.items()}
        links = _Link(iopub), _Link(shell)
        pipes_closed = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._drain_pipes, pipes_closed)
                nursery.start_soon(self._heartbeat, heartbeat)
                for link in links:
                    nursery.start_soon(self._watch, link)
                async with trio.open_nursery() as reading:
                    for channel, socket in sockets.items():
                        reading.start_soon(self._read, channel, socket)
                    reading.start_soon(self._get_ready, ready_timeout, task_status)
                    with self._patience:
                        await self._process.wait()
                    self._process.end_group()
                    kernel.end()
                    with trio.move_on_after(DISCONNECT_SECONDS):
                        for link in links:
                            if link.made:
                                await link.broken.wait()
                    reading.cancel_scope.cancel()
                for channel, socket in sockets.items():
                    await self._drain(channel, socket)
                with trio.move_on_after(PIPES_SECONDS):
                    await pipes_closed.wait()
                nursery.cancel_scope.cancel()
        finally:
            kernel.end()
            kernel.give_up_replies()

    def _fail(self, failure: Exception | str) -> None:
        """Ends the kernel for good; the first reason counts."""
        if self._failure is None:
            self._failure = failure
            self._process.signal_group(signal.SIGKILL)
            self._patience.deadline = trio.current_time() + REAP_SECONDS

    # Readiness.

    async def _get_ready(self, ready_timeout: float, task_status: trio.TaskStatus[Kernel]) -> None:
        pause = NUDGE_SECONDS
        with trio.move_on_after(ready_timeout) as patience:
            while not self._ready.is_set():
                try:
                    with suppress(KernelUnread):
                        self._kernel.nudge()
                except KernelGone:
                    return
                with trio.move_on_after(pause):
                    await self._ready.wait()
                pause = min(2 * pause, MAX_NUDGE_SECONDS)
        if patience.cancelled_caught:
            self._timed_out = self._failure is None
            self._fail(f"did not answer within {ready_timeout:g} s")
            return
        try:
            # Before the handle is out, so that no cell runs before it.
            with suppress(KernelUnread):
                self._kernel.lift_send_queue()
        except KernelGone:
            return
        self._started = True
        task_status.started(self._kernel)

    def _note_progress(self, channel: Channel) -> None:
        # Any message on iopub proves that the subscription holds: a welcome, a status of our nudge, or another.
        self._iopub_proven = self._iopub_proven or channel == "iopub"
        if self._iopub_proven and self._kernel.informed:
            self._ready.set()

    # Reading.

    async def _read(self, channel: Channel, socket: ZmqSocket) -> None:
        while True:
            batch = await socket.receive()
            await self._take(channel, batch, socket.batch_bytes)

    async def _drain(self, channel: Channel, socket: ZmqSocket) -> None:
        while True:
            if batch := socket.receive_nowait():
                await self._take(channel, batch, socket.batch_bytes)
            elif socket.dry:
                return
            await trio.lowlevel.checkpoint()

    async def _take(self, channel: Channel, batch: list[list[bytes]], nbytes: int) -> None:
        decode = self._decoders[channel].decode
        if nbytes <= THREAD_ABOVE:
            decoded = [decode(frames) for frames in batch]
        else:
            with trio.CancelScope(shield=True):  # or these messages would be lost; seconds at most
                decoded = await trio.to_thread.run_sync(partial(list, map(decode, batch)), limiter=self._thread_limit)
        if self._failure is not None:
            return
        messages = []
        for item in decoded:
            if isinstance(item, Rejected):
                self._note_rejected(channel, item)
                if self._kernel.informed:  # before, it may be the last words of whoever had the port until now
                    messages.append(_unreadable(channel, item))
                if self._failure is not None:
                    break  # what comes behind is not believed; what came before is
            elif self._kernel.accept(item):
                messages.append(item)
                if self._record is not None:
                    self._record(received_entry(item, trio.current_time()))
        if not self._ready.is_set() and any(isinstance(item, KernelMessage) for item in decoded):
            self._note_progress(channel)
        if messages:
            self._tell(lambda: self._sink.receive(messages))

    def _tell(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # fatal to this kernel alone; run_kernel raises it
            failed = SinkFailed(f"the sink failed at a message of kernel {self._spec.name!r}")
            failed.__cause__ = error
            self._fail(failed)

    def _note_rejected(self, channel: Channel, rejected: Rejected) -> None:
        if self._decoders[channel].counts.rejected.total() <= _LOGGED_REJECTIONS:
            log.warning(
                "not a message of the kernel",
                kernel=self._spec.name,
                channel=channel,
                kind=rejected.kind,
                nbytes=rejected.nbytes,
                head=rejected.head,
            )
        if rejected.kind == "bad_signature":
            now = trio.current_time()
            self._bad_signatures.append(now)
            if len(self._bad_signatures) == UNTRUSTED_MESSAGES and now - self._bad_signatures[0] < UNTRUSTED_SECONDS:
                self._fail("sent messages that are not signed with its key")

    # Beside.

    async def _drain_pipes(self, closed: trio.Event) -> None:
        await self._process.drain_pipes()
        closed.set()

    async def _watch(self, link: _Link) -> None:
        assert link.socket.monitor is not None
        while True:
            for frames in await link.socket.monitor.receive():
                if connection_event(frames) == "disconnected":
                    # Most often because the process ended, of which its wait tells next. It is also said of a connection
                    # that ended before it was made.
                    if link.made and not link.broken.is_set():
                        self._kernel.broken_links += 1
                        link.broken.set()
                    continue
                if link.made:
                    self._reconnected()
                link.made = True
                link.broken = trio.Event()

    def _reconnected(self) -> None:
        self._kernel.reconnected()
        log.warning("the connection to the kernel was lost and made again", kernel=self._spec.name)
        if self._started:
            # The kernel's iopub queue has its limit again for a connection that is new.
            with suppress(KernelGone, KernelUnread):  # its end follows; or it is beyond help
                self._kernel.lift_send_queue()
            if self._tell_reconnected is not None and self._failure is None:
                self._tell(self._tell_reconnected)

    async def _heartbeat(self, socket: ZmqSocket) -> None:
        while True:
            await trio.sleep(HEARTBEAT_SECONDS)
            # The empty frame is what a REP on the other side expects; it comes back with the rest.
            with trio.move_on_after(HEARTBEAT_SECONDS) as waiting:
                if socket.send([b"", b"ping"]):
                    await socket.receive()
                else:
                    await trio.sleep_forever()
            if waiting.cancelled_caught:
                self._kernel.heartbeats_missed += 1


def _unreadable(channel: Channel, rejected: Rejected) -> KernelMessage:
    content = Unreadable(kind=rejected.kind, nbytes=rejected.nbytes)
    return KernelMessage(
        channel=channel, header=Header(), parent=Header(), metadata={}, content=content, nbytes=rejected.nbytes
    )
