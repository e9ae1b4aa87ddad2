"""What waits for the doc-writer: mutations, events and answers, coalesced until they are taken for one commit."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from daemon.core.comm_changes import CommMutation
from sync.core.batch import Batch, PendingEvent, PendingResponse
from sync.core.binding import Transaction
from sync.core.mutations import Mutation, SetCell, SetKernel, SetQueue
from sync.core.peer_changes import Recipient
from sync.core.urgency import Urgency

# That go with one commit; the rest goes with the next ones. All of 10 000 executions can end at once, and to tell a
# hundred peers of all of them takes half a second (8 us each, and 0.5 for each peer), in which nobody else has a turn.
MAX_NOTICES = 250


class PendingBatch:
    """The batch of the next commit. Registers (`kernel`, `queue`) keep their last value only.

    Args:
        wake: called with the urgency of what was just queued.
    """

    def __init__(self, wake: Callable[[Urgency], None]) -> None:
        self._wake = wake
        self._batch = Batch()
        self._kernel: dict[str, Any] = {}
        self._queue: SetQueue | None = None
        self._queue_is_told = True

    def mutate(self, mutations: Iterable[Mutation], urgency: Urgency = Urgency.NORMAL) -> None:
        """Queues mutations that need no decision."""
        self._batch.mutations.extend(mutations)
        self._wake(urgency)

    def write_notebook(self, write: Callable[[Transaction], None], urgency: Urgency = Urgency.NORMAL) -> None:
        """Queues a change of the notebook document by the daemon itself."""
        self._batch.notebook_writes.append(write)
        self._wake(urgency)

    def emit(self, method: str, params: Mapping[str, Any], *, cells: bool = False) -> None:
        """Queues an event; it is sent behind the commit that it goes with."""
        self._batch.notices.append(PendingEvent(method, dict(params), cells))
        self._wake(Urgency.NORMAL)

    def respond(
        self, recipient: Recipient, request_id: str | int, result: Mapping[str, Any], *, cells: bool = False
    ) -> None:
        """Queues the result of a request, behind everything queued so far."""
        self._batch.notices.append(PendingResponse(recipient, request_id, dict(result), cells))
        self._wake(Urgency.URGENT)

    def queue_mutation(self, *mutations: Mutation) -> None:
        """Queues mutations of a transition, which wakes the doc-writer itself."""
        self._batch.mutations.extend(mutations)

    def set_kernel(self, **fields: Any) -> None:
        """Fields of `kernel` (`SetKernel`) as they now are."""
        self._kernel.update(fields)

    def set_queue(self, executing: str | None, queued: tuple[str, ...], *, tell: bool) -> None:
        """The queue as it now is; only the last state counts, so there is one event a commit, if the commit is to `tell`."""
        self._queue, self._queue_is_told = SetQueue(executing, queued), tell

    def take(self, comms: Sequence[CommMutation], outputs: Sequence[Mutation]) -> Batch:
        """Everything that waits, with what happened to comms and outputs, in an order that is right within one commit."""
        batch, self._batch = self._batch, Batch()
        if self._kernel:
            batch.mutations.append(SetKernel(**self._kernel))
            self._kernel = {}
        if self._queue is not None:
            queue, self._queue = self._queue, None
            batch.mutations.append(queue)
            if self._queue_is_told:
                # Behind what led to it.
                params = {"executing": queue.executing, "queued": list(queue.queued)}
                batch.notices.append(PendingEvent("queue_changed", params))
        batch.mutations.extend(comms)
        batch.changes_file = batch.changes_file or bool(outputs) or any(isinstance(m, SetCell) for m in batch.mutations)
        batch.mutations.extend(outputs)
        if len(batch.notices) > MAX_NOTICES:
            batch.notices, self._batch.notices = batch.notices[:MAX_NOTICES], batch.notices[MAX_NOTICES:]
            batch.more = True
            self._wake(Urgency.LAZY)
        return batch
