"""Widgets for programs that do not await."""

from collections.abc import Callable, Sequence
from typing import Any

from sync.client.blocking_events import BlockingEvents
from sync.client.loop import Loop
from sync.client.outputs import Output
from sync.client.widgets import Widget, WidgetHandle, Widgets


class BlockingWidgets:
    """The widgets that were open when this was made, with their blobs; see `Widgets`."""

    def __init__(self, loop: Loop, widgets: Widgets) -> None:
        self.by_id = {comm_id: BlockingWidget(loop, widget) for comm_id, widget in widgets.by_id.items()}
        self.by_model = {name: [self.by_id[widget.id] for widget in found] for name, found in widgets.by_model.items()}
        self.roots = [self.by_id[widget.id] for widget in loop.read(lambda: widgets.roots)]

    def __repr__(self) -> str:
        return f"<BlockingWidgets: {len(self.by_id)}>"


class BlockingWidget(WidgetHandle):
    """One widget; see `Widget`."""

    def __init__(self, loop: Loop, widget: Widget) -> None:
        super().__init__(widget.id, widget.model_name, widget.model_module)
        self._loop = loop
        self._widget = widget

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BlockingWidget) and other._widget == self._widget

    __hash__ = WidgetHandle.__hash__

    @property
    def exists(self) -> bool:
        """Whether it is open."""
        return self._loop.read(lambda: self._widget.exists)

    @property
    def state(self) -> dict[str, Any]:
        """Its traits, blobs loaded: a copy."""
        return self._loop.run(self._widget.load_state)

    @property
    def value(self) -> Any:
        """The trait `value`; None if it has none."""
        return self.get("value")

    def get(self, trait: str, default: Any = None) -> Any:
        """One trait, blobs loaded; `default` if the document has none of this name."""
        return self._loop.run(lambda: self._widget.load(trait, default))

    @property
    def outputs(self) -> list[Output]:
        """What it captured, blobs loaded."""
        return self._loop.run(self._widget.load_outputs)

    @property
    def children(self) -> "list[BlockingWidget]":
        """The widgets in its trait `children`, those that are open."""
        return self._all(lambda: self._widget.children)

    @property
    def layout(self) -> "BlockingWidget | None":
        """Its Layout."""
        return self._one(lambda: self._widget.layout)

    @property
    def style(self) -> "BlockingWidget | None":
        """Its Style."""
        return self._one(lambda: self._widget.style)

    @property
    def references(self) -> "list[BlockingWidget]":
        """All widgets that its traits refer to and that are open, each once."""
        return self._all(lambda: self._widget.references)

    def set(self, *value: Any, **traits: Any) -> None:
        """Sets traits: `set(5)` is `set(value=5)`. Returns when every peer is told, which is before the kernel is."""
        self._loop.run(lambda: self._widget.set(*value, **traits))

    def click(self) -> None:
        """Clicks it, as a Button is."""
        self._loop.run(self._widget.click)

    def send(self, content: Any, buffers: Sequence[bytes] = ()) -> None:
        """Sends a custom message to its model in the kernel."""
        self._loop.run(lambda: self._widget.send(content, buffers))

    def messages(self) -> BlockingEvents:
        """The custom messages of its model from now on."""
        return BlockingEvents(self._loop, self._loop.read(self._widget.messages))

    def changed(self, trait: str = "value", timeout: float | None = None) -> Any:
        """Waits until others change a trait, and returns what it is then; SyncTimeout after `timeout` seconds."""
        return self._loop.run(lambda: self._widget.changed(trait), timeout)

    def _all(self, read: Callable[[], list[Widget]]) -> "list[BlockingWidget]":
        async def load() -> list[Widget]:
            await self._widget.load_state()  # lists of children may be in blobs
            return read()

        return [BlockingWidget(self._loop, widget) for widget in self._loop.run(load)]

    def _one(self, read: Callable[[], Widget | None]) -> "BlockingWidget | None":
        widget = self._loop.read(read)
        return None if widget is None else BlockingWidget(self._loop, widget)
