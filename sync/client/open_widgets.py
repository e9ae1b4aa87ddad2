"""What a notebook keeps of its widgets while programs use them: what was set and not answered, and who waits for a change."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

from sync.client.events import EventStream
from sync.core.client_session import Event
from sync.core.own_values import OwnValues
from sync.core.plain import read_found, same
from sync.core.prepared import Value
from sync.core.runtime_reading import find
from sync.core.value_writing import Encoder

if TYPE_CHECKING:
    from sync.client.http import DaemonHttp
    from sync.client.notebook import Notebook

# Stands for no value where None is one.
NOTHING: Final[Any] = object()


@dataclass(eq=False, slots=True, weakref_slot=True)
class Watch:
    """One trait that somebody waits for.

    `version` counts its changes, `returned` is the one that was told last, `set_at` the one that this client last set over.
    """

    comm_id: str
    trait: str
    value: Value
    version: int = 0
    returned: int = 0
    set_at: int = 0


class SetHere:
    """What this client has set of one comm, kept for as long as somebody holds a widget of it: no change to who set it."""

    def __init__(self) -> None:
        self.count = 0
        self._set: dict[str, tuple[int, Value]] = {}

    def add(self, state: Mapping[str, Value]) -> None:
        """These were set now."""
        self.count += 1
        self._set |= {name: (self.count, value) for name, value in state.items()}

    def since(self, count: int, trait: str, default: Value) -> Value:
        """The last value of a trait that was set after `count` sets; `default` if it was not."""
        at, value = self._set.get(trait, (0, None))
        return value if at > count else default


class OpenWidgets:
    """The traits of open widgets as this client sees them: what the document says, and its own values before that.

    Attributes:
        own: what this client has set and the daemon has not answered.
    """

    def __init__(self, notebook: "Notebook", http: "DaemonHttp") -> None:
        self.own = OwnValues()
        self._notebook = notebook
        self._http = http
        self._watches: WeakSet[Watch] = WeakSet()
        self._set_here: WeakValueDictionary[str, SetHere] = WeakValueDictionary()
        self._streams: WeakKeyDictionary[EventStream, str] = WeakKeyDictionary()

    def exists(self, comm_id: str) -> bool:
        """Whether the comm is open."""
        return find(self._notebook.runtime_replica, "comms", comm_id, "state") is not None

    def state(self, comm_id: str) -> dict[str, Value] | None:
        """All traits; None if the comm is not open."""
        found = find(self._notebook.runtime_replica, "comms", comm_id, "state")
        if found is None:
            return None
        state: dict[str, Value] = read_found(self._notebook.runtime_replica, found)
        return {**state, **self.own.of(comm_id)}

    def value(self, comm_id: str, trait: str) -> Value:
        """One trait; NOTHING if there is none."""
        own = self.own.of(comm_id)
        if trait in own:
            return own[trait]
        found = find(self._notebook.runtime_replica, "comms", comm_id, "state", trait)
        value: Value = NOTHING if found is None else read_found(self._notebook.runtime_replica, found)
        return value

    def manifests(self, comm_id: str) -> list[Mapping[str, Any]]:
        """Captured outputs; empty if there are none."""
        found = find(self._notebook.runtime_replica, "comms", comm_id, "outputs")
        outputs = None if found is None else read_found(self._notebook.runtime_replica, found)
        return outputs if isinstance(outputs, list) else []

    async def set(self, comm_id: str, state: Mapping[str, Any]) -> None:
        """update_comm; until it is answered these values are shown here."""
        # In the form that the document will have them in, so that the answer is no change.
        encoder = Encoder()
        own = encoder.traits(state)
        for blob in encoder.blobs:
            self._http.keep(blob.hash, blob.data)
        self.own.hold(comm_id, own)
        self._set(comm_id, own)
        self._moved()
        try:
            await self._notebook.request("update_comm", {"comm_id": comm_id, "state": state})
        finally:
            self.own.release(comm_id, own)
            self._moved()

    def set_here(self, comm_id: str) -> SetHere:
        """What this client has set of a comm, for its widgets."""
        found = self._set_here.get(comm_id)
        if found is None:
            found = self._set_here[comm_id] = SetHere()
        return found

    def watch(self, comm_id: str, trait: str, value: Value) -> Watch:
        """Counts the changes of a trait for as long as somebody holds the watch; `value` is what it was."""
        watch = Watch(comm_id, trait, value)
        self._watches.add(watch)
        self._look_at(watch)
        return watch

    def messages(self, comm_id: str) -> EventStream:
        """The custom messages of a comm; ends with it."""

        def wanted(event: Event) -> bool:
            return event.method == "comm_custom" and event.params.get("comm_id") == comm_id

        stream = self._notebook.hear(wanted)
        self._streams[stream] = comm_id
        return stream

    def look(self) -> None:
        """The document has changed, or an own value."""
        for watch in list(self._watches):
            self._look_at(watch)
        for stream, comm_id in list(self._streams.items()):
            if not self.exists(comm_id):
                del self._streams[stream]
                # Messages from before the close may still be under way.
                self._notebook.after_events(partial(stream.end, quietly=True))

    def _look_at(self, watch: Watch) -> None:
        value = self.value(watch.comm_id, watch.trait)
        if not same(value, watch.value):
            watch.value = value
            watch.version += 1

    def _set(self, comm_id: str, own: Mapping[str, Value]) -> None:
        self.set_here(comm_id).add(own)
        for watch in self._watches:
            if watch.comm_id == comm_id and watch.trait in own:
                watch.value, watch.set_at = own[watch.trait], watch.version

    def _moved(self) -> None:
        self.look()
        self._notebook.touch()
