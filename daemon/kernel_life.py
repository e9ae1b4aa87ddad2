"""The lives of a room's kernel: one at a time, launched when somebody needs it, restarted and shut down on request.

One task takes the commands in order. What happens to the executions is decided by the pure `Runtime`; here is only when.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import structlog
import trio

from daemon.core.comm import SendComm
from daemon.core.effects import Effect, SendExecute, SendInput, SendQuestion
from daemon.core.executions import Loss
from daemon.core.runtime import KernelErrorReason, Runtime
from kernel_bridge import (
    Kernel,
    KernelGone,
    KernelLaunchFailed,
    KernelSpec,
    KernelUnread,
    NoSuchKernel,
    SinkFailed,
    find_kernelspec,
    run_kernel,
)
from kernel_bridge.core.messages import KernelInfoReply, KernelMessage

# A cold start on a loaded machine took 15 s (measured); a kernel that is not there after this never will be.
READY_SECONDS = 60
# Commands come from people; more than a few waiting means that nobody reads the answers.
MAX_COMMANDS = 64

# One is in flight at a time, so there is nothing behind it that the kernel should abort.
_EXECUTE: Final = {"user_expressions": {}, "allow_stdin": True, "stop_on_error": False}

_CLOSED = "the notebook is being closed"

log = structlog.get_logger(__name__)


class KernelUnavailable(Exception):
    """There is no kernel, and why."""

    def __init__(self, message: str, stderr: str = "") -> None:
        super().__init__(message)
        self.stderr = stderr


@dataclass(frozen=True, slots=True)
class MessageCounts:
    """Messages of kernels: taken and sent by channel, bad ones by (channel, what was wrong)."""

    taken: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    bad: Counter[tuple[str, str]] = field(default_factory=Counter)
    reconnections: int = 0

    def __add__(self, other: "MessageCounts") -> "MessageCounts":
        return MessageCounts(
            self.taken + other.taken,
            self.sent + other.sent,
            self.bad + other.bad,
            self.reconnections + other.reconnections,
        )


class _Life:
    """One kernel process as a sink: what it says after the room gave it up is not heard."""

    def __init__(self, supervisor: "KernelSupervisor") -> None:
        self._supervisor = supervisor
        self.given_up = False
        self.over = trio.Event()
        self.kernel: Kernel | None = None

    def receive(self, messages: Sequence[KernelMessage]) -> None:
        if not self.given_up:
            self._supervisor.runtime.receive(messages)
            self._supervisor.carry_out()

    def reconnected(self) -> None:
        if not self.given_up:
            self._supervisor.runtime.reconnected()
            self._supervisor.carry_out()

    @property
    def message_counts(self) -> MessageCounts:
        """What this process said and was told."""
        if self.kernel is None:
            return MessageCounts()
        statistics = self.kernel.statistics()
        return MessageCounts(
            Counter({channel: counts.messages for channel, counts in statistics.received.items()}),
            Counter(statistics.sent),
            Counter({(channel, why): n for channel, c in statistics.received.items() for why, n in c.bad.items()}),
            statistics.reconnections,
        )


@dataclass(eq=False)
class Pending:
    """A command to the supervisor, taken in order with the others."""

    action: "_Action"
    name: str | None = None
    done: trio.Event = field(default_factory=trio.Event)
    error: KernelUnavailable | None = None

    async def wait(self) -> None:
        """Returns when it is carried out; whoever stops waiting does not stop the command.

        Raises:
            KernelUnavailable: the kernel did not start.
        """
        await self.done.wait()
        if self.error is not None:
            raise self.error


_Action: TypeAlias = Callable[["KernelSupervisor", Pending], Awaitable[None]]


async def _find(name: str) -> KernelSpec:
    try:
        return await trio.to_thread.run_sync(find_kernelspec, name)
    except NoSuchKernel as error:
        raise KernelUnavailable(str(error)) from error


class KernelSupervisor:
    """Starts and ends kernels for one room.

    Args:
        default_name: gives the kernelspec's name that the notebook asks for.
        deadline_moved: called when `runtime.deadline` may have changed.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        cwd: Path,
        env: Mapping[str, str],
        runtime_dir: Path,
        default_name: Callable[[], str],
        deadline_moved: Callable[[], None],
    ) -> None:
        self.runtime = runtime
        self.kernel: Kernel | None = None
        # The last one that was ready.
        self.ran: tuple[KernelSpec, KernelInfoReply] | None = None
        self._lives: set[_Life] = set()
        self._counted = MessageCounts()
        self._cwd = cwd
        self._env = env
        self._runtime_dir = runtime_dir
        self._default_name = default_name
        self._deadline_moved = deadline_moved
        self._chosen: str | None = None
        self._life: _Life | None = None
        self._launching: trio.CancelScope | None = None
        self._wanted: Pending | None = None
        self._last: Pending | None = None
        self._commands_send, self._commands_receive = trio.open_memory_channel[Pending](MAX_COMMANDS)

    @property
    def message_counts(self) -> "MessageCounts":
        """What came from and went to all kernels that this room had."""
        counts = MessageCounts() + self._counted
        for life in self._lives:
            counts += life.message_counts
        return counts

    # What the dispatcher calls.

    def launch_in_background(self) -> None:
        """Somebody wants to execute: a kernel is launched unless one runs or is on its way."""
        if self.kernel is None and (self._wanted is None or self._wanted.done.is_set()):
            try:
                self._wanted = self._submit(KernelSupervisor._launch_wanted)
            except KernelUnavailable as busy:
                log.warning("kernel not launched", reason=str(busy))

    def launch(self, name: str | None) -> "Pending":
        """Wants this kernel (None: whichever runs or ran, or the notebook's); another one is shut down first."""
        return self._submit(KernelSupervisor._launch, name)

    def restart(self) -> "Pending":
        """Ends the kernel, if there is one, and starts it anew."""
        self._give_up_launch()
        return self._submit(KernelSupervisor._restart)

    def shutdown(self) -> "Pending":
        """Ends the kernel; nothing if there is none."""
        self._give_up_launch()
        return self._submit(KernelSupervisor._shutdown)

    async def close(self) -> None:
        """Ends the kernel for good, ahead of all commands that wait: these and all later ones fail."""
        if self._last is None:
            self._last = Pending(KernelSupervisor._shutdown)
            self._give_up_launch()
            self._refuse_waiting()
            self._commands_send.send_nowait(self._last)
        await self._last.done.wait()

    def give_up(self) -> None:
        """The room ends: what the kernel says from here on is nobody's, and none is launched. `close` ends its process."""
        self._give_up_launch()
        if self._life is not None:
            self._life.given_up = True

    def carry_out(self) -> bool:
        """Does outside what the runtime decided; False if the kernel has left so much unread that it took a part only."""
        taken = True
        while effects := self.runtime.take_effects():
            for effect in effects:
                if self.kernel is not None:
                    taken = self._send(self.kernel, effect) and taken
        self._deadline_moved()
        return taken

    def _send(self, kernel: Kernel, effect: Effect) -> bool:
        try:
            match effect:
                case SendExecute(execution):
                    content = {**_EXECUTE, "code": execution.code, "silent": False, "store_history": True}
                    kernel.send("shell", "execute_request", content, msg_id=execution.execution_id)
                case SendQuestion(msg_id):
                    content = {**_EXECUTE, "code": "", "silent": True, "store_history": False, "allow_stdin": False}
                    kernel.send("shell", "execute_request", content, msg_id=msg_id)
                case SendComm():
                    kernel.send(
                        "shell",
                        effect.msg_type,
                        effect.content,
                        msg_id=effect.msg_id,
                        metadata=effect.metadata,
                        buffers=effect.buffers,
                    )
                case SendInput(value, parent):
                    kernel.send("stdin", "input_reply", {"value": value}, parent=parent)
        except KernelGone:
            # Its process is over, and its life ends next.
            log.info("a kernel that is gone could not be sent to", effect=type(effect).__name__)
            if isinstance(effect, SendExecute):
                self.runtime.not_sent(effect.execution.execution_id)
        except KernelUnread:
            if isinstance(effect, SendExecute | SendQuestion | SendComm):
                self.runtime.not_taken(effect)
            return False
        return True

    # The task.

    async def run(self) -> None:
        """Takes commands until cancelled; a kernel that still runs then is killed with its process group."""
        try:
            async with trio.open_nursery() as self._nursery:
                async for command in self._commands_receive:
                    command.error = KernelUnavailable(_CLOSED)  # if this task ends before the command does
                    try:
                        await command.action(self, command)
                        command.error = None
                    except KernelUnavailable as error:
                        command.error = error
                    finally:
                        command.done.set()
        finally:
            if self._last is None:
                self._last = Pending(KernelSupervisor._shutdown)
                self._last.done.set()
            self._refuse_waiting()

    def _submit(self, action: "_Action", name: str | None = None) -> "Pending":
        if self._last is not None:
            raise KernelUnavailable(_CLOSED)
        command = Pending(action, name)
        try:
            self._commands_send.send_nowait(command)
        except trio.WouldBlock:
            raise KernelUnavailable(f"{MAX_COMMANDS} kernel commands are waiting already") from None
        return command

    def _refuse_waiting(self) -> None:
        with suppress(trio.WouldBlock):
            while True:
                command = self._commands_receive.receive_nowait()
                command.error = KernelUnavailable(_CLOSED)
                command.done.set()

    def _give_up_launch(self) -> None:
        if self._launching is not None:
            self._launching.cancel()

    async def _launch(self, command: Pending) -> None:
        name = command.name or self._name
        if self.kernel is not None:
            # A name that is not there costs nobody the kernel that runs; and it may be folded.
            spec = await _find(name)
            if self.kernel is not None:
                if self.kernel.spec.name == spec.name:
                    return
                await self._end("shutdown")
        await self._start(name, restarting=False)
        self._chosen = command.name or self._chosen

    async def _launch_wanted(self, command: Pending) -> None:
        if self.runtime.queue.queued:  # or a launch before this one failed, and ended what wanted it
            await self._launch(command)

    async def _restart(self, command: Pending) -> None:
        del command
        name = self._name
        await self._end("restart")
        await self._start(name, restarting=True)

    async def _shutdown(self, command: Pending) -> None:
        del command
        await self._end("shutdown")

    @property
    def _name(self) -> str:
        """Which kernelspec is meant where none is named."""
        if self.kernel is not None:
            return self.kernel.spec.name
        return self._chosen or self._default_name()

    async def _start(self, name: str, *, restarting: bool) -> None:
        with trio.CancelScope() as self._launching:
            if self._last is not None:
                self._launching.cancel()
            try:
                await self._launch_one(name, restarting=restarting)
                return
            finally:
                self._launching = None
        self._lost("shutdown")
        raise KernelUnavailable("the launch was given up")

    async def _launch_one(self, name: str, *, restarting: bool) -> None:
        try:
            spec = await _find(name)
        except KernelUnavailable as error:
            self._lost("launch_failed", str(error))
            raise
        self.runtime.kernel_starting(name, spec.language, restarting=restarting)
        life = _Life(self)
        try:
            kernel: Kernel = await self._nursery.start(self._live, spec, life)
        except KernelLaunchFailed as error:
            reason: KernelErrorReason = "timeout" if error.timed_out else "launch_failed"
            self._lost("launch_failed", error.message, error.stderr, reason=reason)
            raise KernelUnavailable(error.message, error.stderr) from error
        life.kernel = kernel
        if life.over.is_set():
            self._counted += life.message_counts
            raise KernelUnavailable("the kernel ended right after its start")
        self.kernel, self._life = kernel, life
        self.ran = spec, kernel.info
        log.info("kernel ready", kernel=name, pid=kernel.pid)
        self.runtime.kernel_ready(kernel.info.language or spec.language, kernel.session)
        self.carry_out()

    async def _live(self, spec: KernelSpec, life: _Life, task_status: trio.TaskStatus[Kernel]) -> None:
        self._lives.add(life)
        try:
            exit_ = await run_kernel(
                spec,
                life,
                cwd=self._cwd,
                env=self._env,
                runtime_dir=self._runtime_dir,
                ready_timeout=READY_SECONDS,
                reconnected=life.reconnected,
                task_status=task_status,
            )
            if self._life is life:
                self.kernel = self._life = None
            if not life.given_up and exit_.message:
                log.warning("kernel ended for what it did", kernel=spec.name, reason=exit_.message)
                self._lost("died", f"the kernel was ended: it {exit_.message}", exit_.stderr_tail, reason="protocol")
            elif not life.given_up:
                how = f"signal {exit_.signal}" if exit_.signal else f"exit code {exit_.returncode}"
                log.warning("kernel died", kernel=spec.name, how=how)
                self._lost("died", f"the kernel died ({how}); execute a cell to start it again", exit_.stderr_tail)
        except SinkFailed:
            # A bug of ours in taking a message: this kernel ends, with its executions, and the room goes on.
            log.exception("a kernel's message could not be taken", kernel=spec.name)
            if self._life is life:
                self.kernel = self._life = None
            if not life.given_up:
                self._lost("died", "the daemon failed on a message of this kernel; its log says why")
        finally:
            self._lives.discard(life)
            self._counted += life.message_counts
            life.over.set()

    async def _end(self, loss: Loss) -> None:
        kernel, life = self.kernel, self._life
        if kernel is None or life is None:
            self._lost(loss)
            return
        # From here on its executions are over; what the old process still says is nobody's.
        life.given_up = True
        self.kernel = self._life = None
        self._lost(loss)
        await kernel.shutdown()
        await life.over.wait()

    def _lost(
        self,
        loss: Loss,
        message: str | None = None,
        traceback: str | None = None,
        *,
        reason: KernelErrorReason | None = None,
    ) -> None:
        self.runtime.kernel_gone(loss, message=message, traceback=traceback or None, reason=reason)
        self.carry_out()
