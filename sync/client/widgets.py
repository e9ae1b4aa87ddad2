"""Widgets as a program has them: read from the runtime document, set and clicked by request.

`nb.get_widgets()` has those that are open now, by comm id, by model, and as trees. Each `Widget` is live: what it shows is
what the document says when it is asked, but for the traits that this client has set itself and that the daemon has not
answered yet (docs/wire.md, "Comms").
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakValueDictionary

from sync.client.blob_refs import decode_trait
from sync.client.errors import RequestFailed, WidgetClosed
from sync.client.events import EventStream
from sync.client.open_widgets import NOTHING, OpenWidgets, Watch
from sync.client.outputs import Output, decode_output
from sync.core.jsonrpc import ErrorCode
from sync.core.prepared import Value
from sync.core.value_reading import blob_hashes
from sync.core.widget_tree import find_roots, read_widget, read_widgets, reference, references_of

if TYPE_CHECKING:
    from sync.client.http import DaemonHttp
    from sync.client.notebook import Notebook


class Widgets:
    """The widgets that were open when this was made.

    What is big or binary is in blobs. `await` it to have them as well, of all widgets and of what they captured:
    `widgets = await nb.get_widgets()`. Without that, values that are not at hand are `BlobRef`s, and the list of a box with
    some twenty children is such a value.

    Attributes:
        by_id: by comm id, in the order in which they were opened (a child before its parent).
        by_model: by model name (`IntSliderModel`), in the order in which they were opened.
    """

    def __init__(self, notebook: "Notebook", http: "DaemonHttp", widgets: OpenWidgets) -> None:
        self._notebook = notebook
        self._http = http
        self._open = widgets
        self._blobs: dict[str, bytes] = {}
        entries = read_widgets(notebook.runtime_replica)
        self.by_id: Mapping[str, Widget] = {comm_id: self._make(comm_id, entry) for comm_id, entry in entries.items()}
        by_model: dict[str, list[Widget]] = {}
        for widget in self.by_id.values():
            by_model.setdefault(widget.model_name, []).append(widget)
        self.by_model: Mapping[str, list[Widget]] = by_model
        self._states = {comm_id: entry["state"] for comm_id, entry in entries.items()}
        self._later: WeakValueDictionary[str, Widget] = WeakValueDictionary()

    def __repr__(self) -> str:
        return f"<Widgets: {len(self.by_id)}>"

    def __await__(self) -> Generator[Any, None, Self]:
        return self._load().__await__()

    @property
    def roots(self) -> "list[Widget]":
        """Those that no other referred to when this was made: the tops of the trees, and links."""
        references = {
            comm_id: [other for value in state.values() for other in references_of(value, self.at_hand(value))]
            for comm_id, state in self._states.items()
        }
        return [self.by_id[comm_id] for comm_id in find_roots(references)]

    def find(self, comm_ids: Iterable[str]) -> "list[Widget]":
        """Those of these that are open now, also if they were opened later."""
        found = []
        for comm_id in comm_ids:
            widget = self.by_id.get(comm_id) or self._later.get(comm_id)
            if widget is None:
                entry = read_widget(self._notebook.runtime_replica, comm_id)
                if entry is None:
                    continue
                widget = self._later[comm_id] = self._make(comm_id, entry)
            if widget.exists:
                found.append(widget)
        return found

    # For its widgets.

    def at_hand(self, value: object) -> dict[str, bytes]:
        """Those of the blobs of a value that are here."""
        named = ((blob, self._blobs.get(blob, self._http.cached.get(blob))) for blob in blob_hashes(value))
        return {blob: data for blob, data in named if data is not None}

    def decode(self, value: Value) -> Any:
        """A trait, with the blobs that are at hand."""
        return decode_trait(value, self.at_hand(value), self._http.read_blob)

    def decode_outputs(self, manifests: Sequence[Mapping[str, Any]]) -> list[Output]:
        """Outputs, with the blobs that are at hand."""
        return [decode_output(manifest, self.at_hand(manifest), self._http.read_blob) for manifest in manifests]

    async def load(self, state: Mapping[str, Value]) -> dict[str, Any]:
        """Traits, with all their blobs."""
        blobs = self.at_hand(state)
        blobs |= await self._http.read_blobs(set(blob_hashes(state)) - blobs.keys())
        return {name: decode_trait(value, blobs, self._http.read_blob) for name, value in state.items()}

    def _make(self, comm_id: str, entry: Mapping[str, Any]) -> "Widget":
        return Widget(self, self._notebook, self._open, comm_id, entry)

    async def _load(self) -> Self:
        manifests = [widget.manifests() for widget in self.by_id.values()]
        wanted = {*blob_hashes(self._states), *blob_hashes(manifests)}
        self._blobs |= await self._http.read_blobs(wanted - self._blobs.keys())
        return self


class WidgetHandle:
    """A widget by its comm id, however it is read.

    Attributes:
        id: its comm id.
        model_name: for instance `IntSliderModel`.
        model_module: for instance `@jupyter-widgets/controls`.
    """

    def __init__(self, comm_id: str, model_name: str, model_module: str) -> None:
        self.id = comm_id
        self.model_name = model_name
        self.model_module = model_module

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, {self.model_name!r})"

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def exists(self) -> bool:
        """Whether it is open."""
        raise NotImplementedError

    @property
    def references(self) -> Sequence[Self]:
        """All widgets that its traits refer to and that are open, each once."""
        raise NotImplementedError

    def walk(self) -> Iterator[Self]:
        """It, and all that is reached from it by references: each once, parents first."""
        seen: set[str] = set()
        pending = [self]
        while pending:
            widget = pending.pop()
            if widget.id in seen or not widget.exists:
                continue
            seen.add(widget.id)
            below = widget.references
            yield widget
            pending.extend(reversed(below))


class Widget(WidgetHandle):
    """One widget. Two objects for one widget are equal. Reading one that was closed raises `WidgetClosed`."""

    def __init__(
        self, widgets: Widgets, notebook: "Notebook", open_widgets: OpenWidgets, comm_id: str, entry: Mapping[str, Any]
    ) -> None:
        super().__init__(comm_id, str(entry.get("model_name", "")), str(entry.get("model_module", "")))
        self._widgets = widgets
        self._notebook = notebook
        self._open = open_widgets
        self._first: Mapping[str, Value] = {**entry["state"], **open_widgets.own.of(comm_id)}
        self._set_here = open_widgets.set_here(comm_id)
        self._made_at = self._set_here.count
        self._watches: dict[str, Watch] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Widget) and other.id == self.id and other._notebook is self._notebook

    __hash__ = WidgetHandle.__hash__

    # --- What it is

    @property
    def exists(self) -> bool:
        """Whether it is open."""
        return self._open.exists(self.id)

    @property
    def state(self) -> dict[str, Any]:
        """Its traits: a copy. Bytes are `bytes`; what is in a blob that is not at hand is a `BlobRef`."""
        return {name: self._widgets.decode(value) for name, value in self._state().items()}

    @property
    def value(self) -> Any:
        """The trait `value`; None if it has none."""
        return self.get("value")

    def get(self, trait: str, default: Any = None) -> Any:
        """One trait; `default` if the document has none of this name (an unset one of a Layout, say)."""
        value = self._value(trait)
        return default if value is NOTHING else self._widgets.decode(value)

    async def load(self, trait: str, default: Any = None) -> Any:
        """One trait, with all its blobs."""
        value = self._value(trait)
        return default if value is NOTHING else (await self._widgets.load({trait: value}))[trait]

    async def load_state(self) -> dict[str, Any]:
        """Its traits, with all their blobs."""
        return await self._widgets.load(self._state())

    @property
    def outputs(self) -> list[Output]:
        """What it captured, if it is an Output widget; like a cell's. See also `load_outputs`."""
        return self._widgets.decode_outputs(self.manifests())

    async def load_outputs(self) -> list[Output]:
        """What it captured, with all its blobs."""
        return await self._notebook.load_outputs(self.manifests())

    # --- The tree

    @property
    def children(self) -> "list[Widget]":
        """The widgets in its trait `children`, those that are open; see `Widgets` for a long list."""
        return self._referred("children")

    @property
    def layout(self) -> "Widget | None":
        """Its Layout."""
        return next(iter(self._referred("layout")), None)

    @property
    def style(self) -> "Widget | None":
        """Its Style."""
        return next(iter(self._referred("style")), None)

    @property
    def references(self) -> "list[Widget]":
        """All widgets that its traits refer to and that are open, each once."""
        state = self._state()
        found = [other for value in state.values() for other in references_of(value, self._widgets.at_hand(value))]
        return self._widgets.find(dict.fromkeys(found))

    # --- What can be done with it

    async def set(self, value: Any = NOTHING, /, **traits: Any) -> None:
        """Sets traits: `set(5)` is `set(value=5)`. Returns when every peer is told, which is before the kernel is.

        Values are what JSON has, and bytes, and widgets. Until the answer this client shows its own value; what the kernel
        makes of it (a value out of range) comes later, as a change. May be called again before it has returned.

        Raises:
            WidgetClosed: it is closed.
            RequestFailed: `no_kernel` for a widget of a file, `too_large`, ...
            ConnectionLost: there is no connection, or it broke before the answer came.
        """
        if value is not NOTHING:
            traits = {"value": value, **traits}
        with self._closed_if_not_found():
            await self._open.set(self.id, {name: _plain(value) for name, value in traits.items()})

    async def click(self) -> None:
        """Clicks it, as a Button is; raises like `set`."""
        await self.send({"event": "click"})

    async def send(self, content: Any, buffers: Sequence[bytes] = ()) -> None:
        """Sends a custom message to its model in the kernel; raises like `set`."""
        params = {"comm_id": self.id, "content": content, "buffers": list(buffers)}
        with self._closed_if_not_found():
            await self._notebook.request("comm_custom", params)

    def messages(self) -> EventStream:
        """The custom messages of its model from now on: events `comm_custom`, with `content` and `buffers` in `params`.

        It ends when the widget is closed, and as `nb.events()` does.
        """
        if not self.exists:
            raise self._closed()
        return self._open.messages(self.id)

    async def changed(self, trait: str = "value") -> Any:
        """Waits until others change a trait (the kernel, another peer), and returns what it is then, blobs loaded.

        A change counts since the last `changed` of this object for this trait returned; for the first call, since the object
        was made. So a loop misses none; of several that came meanwhile it gets the last one. What this client sets is no
        change, and those before it do not count any more; what becomes of it is one: a correction, or a refusal, after
        which the trait is again what it was.

        Raises:
            WidgetClosed: there will be no change.
            ConnectionLost: likewise, or blobs can't be read.
        """
        watch = self._watches.get(trait)
        if watch is None:
            first = self._set_here.since(self._made_at, trait, self._first.get(trait, NOTHING))
            watch = self._watches[trait] = self._open.watch(self.id, trait, first)
        returned = watch.returned
        await self._notebook.wait_for(lambda: watch.version > max(returned, watch.set_at) or not self.exists)
        version = watch.version
        value = await self.load(trait)
        watch.returned = max(version, watch.returned)
        return value

    # --- Inside

    def manifests(self) -> list[Mapping[str, Any]]:
        """What it captured as the document has it; empty for a closed one."""
        return self._open.manifests(self.id)

    def _state(self) -> dict[str, Value]:
        state = self._open.state(self.id)
        if state is None:
            raise self._closed()
        return state

    def _value(self, trait: str) -> Value:
        if not self.exists:
            raise self._closed()
        return self._open.value(self.id, trait)

    def _referred(self, trait: str) -> "list[Widget]":
        value = self._value(trait)
        return [] if value is NOTHING else self._widgets.find(references_of(value, self._widgets.at_hand(value)))

    @contextmanager
    def _closed_if_not_found(self) -> Iterator[None]:
        try:
            yield
        except RequestFailed as failed:
            if failed.code != ErrorCode.NOT_FOUND:
                raise
            raise self._closed() from failed

    def _closed(self) -> WidgetClosed:
        return WidgetClosed(f"the widget {self.id!r} ({self.model_name}) is closed")


def _plain(value: Any) -> Any:
    """A trait with references in the place of widgets, and lists in that of tuples."""
    if isinstance(value, WidgetHandle):
        return reference(value.id)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
