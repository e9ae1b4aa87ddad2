"""What `/metrics` says: counted where it happens, collected when it is asked for. docs/operations.md explains each."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import trio
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from daemon.loop_watch import BUCKETS
from sync.fsync import fsyncs

if TYPE_CHECKING:
    from daemon.hub import Hub


class Metrics(Collector):
    """Reads the hub's rooms and connections; holds nothing itself, so it can't drift from them."""

    def __init__(self, hub: "Hub") -> None:
        self._hub = hub
        self._registry = CollectorRegistry()
        self._registry.register(self)
        # Memory, file descriptors and CPU time, where there is a /proc.
        ProcessCollector(namespace="notebookd", registry=self._registry)

    def render(self) -> bytes:
        """The exposition format of Prometheus."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """One family for each figure."""
        yield from self._rooms()
        yield from self._connections()
        yield from self._kernels()
        yield from self._process()

    def _rooms(self) -> Iterator[Metric]:
        rooms, past = list(self._hub.rooms.values()), self._hub.past
        yield _gauge("rooms", "Open notebooks", len(rooms))
        statuses = Counter(room.runtime.kernel_status for room in rooms)
        yield _gauges("kernels", "Rooms by kernel status", "status", sorted(statuses.items()))
        yield _gauge("executions_queued", "Executions that wait", sum(len(r.runtime.queue.queued) for r in rooms))
        yield _gauge("changes_waiting", "Groups of peers' changes that wait", sum(r.writer.waiting for r in rooms))
        changes, sizes, operations = Counter[str](), Counter[str](), Counter[str]()
        for kind, document in [item for room in rooms for item in room.documents]:
            changes[kind] += len(document.log)
            sizes[kind] += document.log.size(0, len(document.log))
            operations[kind] += document.operations
        yield _gauge("changes", "Changes in the logs of open documents", changes.total())
        yield _gauges("document_changes", "The same by document", "document", sorted(changes.items()))
        yield _gauges("document_bytes", "Bytes of these changes", "document", sorted(sizes.items()))
        yield _gauges("document_operations", "Operations in them", "document", sorted(operations.items()))
        commits = past.commits + sum(room.writer.commits for room in rooms)
        yield _counter("commits", "Commits to runtime documents", commits)
        successions = past.successions + sum(room.writer.successions for room in rooms)
        yield _counter("roll_overs", "Runtime documents that were replaced, their history too long", successions)
        ended = sum((room.runtime.ended for room in rooms), past.executions)
        yield _counters("executions", "Executions that ended, by status", ("status",), ended)

    def _connections(self) -> Iterator[Metric]:
        hub = self._hub
        connections, counts = list(hub.connections), hub.counts
        yield _gauge("peers", "Connected peers", len(connections))
        roles = Counter({"editor": 0, "viewer": 0})
        roles.update(connection.role for connection in connections)
        yield _gauges("peers_by_role", "Connected peers by what they may do", "role", sorted(roles.items()))
        for name, what in _COUNTS.items():
            yield _counter(name, what, counts.get(name, 0))
        outboxes = [connection.outbox for connection in connections]
        yield _gauge("outbox_bytes", "Bytes that wait for peers", sum(outbox.held_bytes for outbox in outboxes))
        yield _gauge(
            "notices_waiting", "Events and answers held now", sum(outbox.notices_waiting for outbox in outboxes)
        )
        in_flight = sum(len(connection.in_flight) for connection in connections)
        yield _gauge("requests_in_flight", "Requests without their answer yet", in_flight)
        yield _counter("requests", "Requests taken", hub.requests)

    def _kernels(self) -> Iterator[Metric]:
        counts = self._hub.kernel_messages
        taken = counts.taken | Counter(dict.fromkeys(_CHANNELS, 0))
        yield _counters("kernel_messages", "Messages of kernels", ("channel",), _all(_CHANNELS, taken))
        yield _counters("kernel_messages_sent", "Messages to kernels", ("channel",), _all(_CHANNELS[1:], counts.sent))
        yield _counters("kernel_messages_bad", "Messages of kernels that were none", ("channel", "reason"), counts.bad)
        yield _counter("kernel_reconnections", "Broken connections to kernels, made again", counts.reconnections)

    def _process(self) -> Iterator[Metric]:
        blobs, watch = self._hub.blobs.statistics(), self._hub.loop_watch
        yield _counter("blobs_stored", "Blobs written", blobs.stored)
        yield _counter("blob_bytes_stored", "Bytes of these", blobs.stored_bytes)
        yield _counter("fsyncs", "Times that the disk itself was waited for", fsyncs())
        yield _gauge("tasks", "Tasks of the event loop", trio.lowlevel.current_statistics().tasks_living)
        yield _gauge("uptime_seconds", "Since the start", self._hub.uptime)
        rounds = HistogramMetricFamily(
            "notebookd_loop_seconds", "Rounds of the event loop by length: what waits behind them"
        )
        total, buckets = 0, []
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), watch.rounds, strict=True):
            total += count
            buckets.append((bound, float(total)))
        rounds.add_metric([], buckets, watch.seconds)
        yield rounds
        yield _counter("gc_seconds", "Time in the garbage collector", watch.collected_seconds)


_CHANNELS = ("iopub", "shell", "control", "stdin")

_COUNTS = {
    "frames_received": "Frames that peers sent",
    "frames_sent": "Frames that peers were sent",
    "bytes_received": "Bytes of frames that peers sent",
    "bytes_sent": "Bytes of frames that peers were sent",
    "notices_written": "Events and answers that peers were sent",
    "notices_held": "Times that an event or answer waited for its state",
    "notices_replaced": "Events that a newer one of their kind replaced, for peers that were behind",
    "notices_dropped": "Events that slow peers missed",
    "payloads": "Sync messages that peers were sent",
    "foreign_ephemerals": "Messages of one peer that another passed on, dropped",
    "relays_dropped": "Messages of peers to others that were too big or too many",
    "changes_dropped": "Sync messages whose changes were dropped: the peer may not write",
    "peers_dropped": "Connections that we ended: they did not read",
}


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(f"notebookd_{name}", what, value)


def _counter(name: str, what: str, value: float) -> Metric:
    return CounterMetricFamily(f"notebookd_{name}", what, value)


def _gauges(name: str, what: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    family = GaugeMetricFamily(f"notebookd_{name}", what, labels=[label])
    for value, number in values:
        family.add_metric([value], number)
    return family


def _counters(
    name: str, what: str, labels: tuple[str, ...], values: Mapping[str, int] | Mapping[tuple[str, str], int]
) -> Metric:
    family = CounterMetricFamily(f"notebookd_{name}", what, labels=list(labels))
    for key, number in sorted(values.items()):
        family.add_metric([key] if isinstance(key, str) else list(key), number)
    return family


def _all(keys: Iterable[str], counts: Mapping[str, int]) -> dict[str, int]:
    """Every key, so that a series does not begin with its first event."""
    return {key: counts.get(key, 0) for key in keys}
