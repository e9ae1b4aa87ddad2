"""What `/metrics` says: counted where it happens, collected when it is asked for."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from daemon.hub import Hub


class Metrics(Collector):
    """Reads the hub's rooms and connections; holds nothing itself, so it can't drift from them."""

    def __init__(self, hub: "Hub") -> None:
        self._hub = hub
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def render(self) -> bytes:
        """The exposition format of Prometheus."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """One family for each figure."""
        rooms, connections = list(self._hub.rooms.values()), list(self._hub.connections)
        yield GaugeMetricFamily("notebookd_rooms", "Open notebooks", len(rooms))
        yield GaugeMetricFamily("notebookd_peers", "Connected peers", len(connections))
        kernels = GaugeMetricFamily("notebookd_kernels", "Rooms by kernel status", labels=["status"])
        for status in sorted({room.runtime.kernel_status for room in rooms}):
            kernels.add_metric([status], sum(room.runtime.kernel_status == status for room in rooms))
        yield kernels
        queued = sum(len(room.runtime.queue.queued) for room in rooms)
        yield GaugeMetricFamily("notebookd_executions_queued", "Executions that wait", queued)
        changes = sum(len(room.runtime_document.log) + len(room.notebook.log) for room in rooms)
        yield GaugeMetricFamily("notebookd_changes", "Changes in the logs of open documents", changes)
        counts = self._hub.counts
        for name, what in _COUNTS.items():
            yield CounterMetricFamily(f"notebookd_{name}", what, counts.get(name, 0))
        held_bytes = sum(connection.outbox.held_bytes for connection in connections)
        yield GaugeMetricFamily("notebookd_outbox_bytes", "Bytes that wait for peers", held_bytes)


_COUNTS = {
    "commits": "Commits to runtime documents",
    "frames_received": "Frames that peers sent",
    "frames_sent": "Frames that peers were sent",
    "notices_held": "Times that an event or answer waited for its state",
    "notices_replaced": "Events that a newer one of their kind replaced, for peers that were behind",
    "notices_dropped": "Events that slow peers missed",
    "foreign_ephemerals": "Messages of one peer that another passed on, dropped",
    "relays_dropped": "Messages of peers to others that were too big or too many",
    "changes_dropped": "Sync messages whose changes were dropped: the peer may not write",
}
