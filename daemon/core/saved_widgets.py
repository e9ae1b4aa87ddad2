"""Widgets between a notebook's file and its documents: `application/vnd.jupyter.widget-state+json`.

A notebook without a kernel shows its widgets as they last were. They are comms like others in the document, but no kernel
knows of them: they go when no cell that came from the file shows them any more.
"""

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from daemon.core.comm import OUTPUT_TRAITS, WIDGET_VIEW, Comm, Place, is_link, view_in
from daemon.core.comm_buffers import State, join_buffers, split_buffers
from daemon.core.comms import MAX_COMMS
from daemon.core.notebook_file import parse_output
from sync.core.limits import MAX_ID_CHARS
from sync.core.outputs import DisplayOutput, Output
from sync.core.plain import is_key
from sync.core.value_reading import InvalidValue, Load, decode_manifest, decode_value
from sync.core.widget_tree import WIDGET_TARGET, closure, references_of, references_within


@dataclass(frozen=True, slots=True)
class LoadedComm:
    """A widget as a file has it; `outputs` of an Output widget only."""

    comm_id: str
    model_module: str
    model_name: str
    state: State
    outputs: list[Output] | None = None
    target_name: str = WIDGET_TARGET


class SavedWidgets:
    """Which of the file's widgets are in the document, and which cells show them."""

    def __init__(self) -> None:
        self._references: dict[str, frozenset[str]] = {}
        self._links: set[str] = set()
        self._views: dict[str, set[str]] = {}

    def __contains__(self, comm_id: str) -> bool:
        return comm_id in self._references

    def add(self, comm: LoadedComm) -> bool:
        """Takes a widget of the file; False if it has one with this id."""
        if comm.comm_id in self._references:
            return False
        self._references[comm.comm_id] = _named_by(comm)
        if is_link(comm.model_name):
            self._links.add(comm.comm_id)
        return True

    def show(self, cell_id: str, comm_ids: Collection[str]) -> None:
        """A cell's outputs, as the file has them, show these."""
        if comm_ids:
            self._views.setdefault(cell_id, set()).update(comm_ids)

    def remove(self, comm_id: str) -> bool:
        """Forgets one, since the kernel opens its id; False if there is none."""
        self._links.discard(comm_id)
        return self._references.pop(comm_id, None) is not None

    def cell_cleared(self, cell_id: str) -> list[str]:
        """A cell's outputs are gone; returns the widgets that nothing shows any more, which are forgotten."""
        if self._views.pop(cell_id, None) is None:
            return []
        shown = (comm_id for views in self._views.values() for comm_id in views)
        used = _used(shown, self._references, self._links)
        dropped = [comm_id for comm_id in self._references if comm_id not in used]
        for comm_id in dropped:
            self.remove(comm_id)
        return dropped


# From the file.


def parse_widget_state(
    raw: Mapping[str, Any], new_id: Callable[[], str], shown: Iterable[str] = ()
) -> list[LoadedComm]:
    """The widgets of a file, each behind those that it refers to; what has no such shape is left out.

    Front ends save all widgets that their kernel had, also those that nothing shows any more. Of more than `MAX_COMMS`
    those are left out first, the oldest before the others.

    Args:
        raw: what stands under the widgets' media type in the notebook's metadata.
        new_id: makes ids for outputs.
        shown: the widgets that outputs of cells show.
    """
    models = raw.get("state")
    loaded: dict[str, LoadedComm] = {}
    for comm_id, model in models.items() if isinstance(models, dict) else ():
        if isinstance(model, dict) and is_key(comm_id) and len(comm_id) <= MAX_ID_CHARS:
            comm = _loaded(comm_id, model, new_id)
            if comm is not None:
                loaded[comm_id] = comm
    if len(loaded) > MAX_COMMS:
        named = {comm_id: _named_by(comm) for comm_id, comm in loaded.items()}
        used = _used(shown, named, [comm_id for comm_id, comm in loaded.items() if is_link(comm.model_name)])
        first = [comm_id for comm_id in loaded if comm_id in used]
        first += [comm_id for comm_id in reversed(loaded) if comm_id not in used]
        loaded = {comm_id: loaded[comm_id] for comm_id in first[:MAX_COMMS]}
    return [loaded[comm_id] for comm_id in _children_first(loaded)]


def _used(shown: Iterable[str], named: Mapping[str, Collection[str]], links: Iterable[str]) -> set[str]:
    """What is shown, all that it refers to, and the links that stay with it.

    Args:
        shown: comm ids.
        named: what each widget refers to, by its comm id.
        links: those of them that are links.
    """
    used = closure(shown, lambda comm_id: named.get(comm_id, ()))
    return used | closure(
        (link for link in links if used.issuperset(named[link])), lambda comm_id: named.get(comm_id, ())
    )


def _named_by(comm: LoadedComm) -> frozenset[str]:
    """The widgets that one refers to, and those that it captured."""
    return frozenset(references_within(comm.state)).union(*map(view_of, comm.outputs or ()))


def view_of(output: Output) -> set[str]:
    """The widget that an output shows, if it shows one."""
    model_id = view_in(output.data) if isinstance(output, DisplayOutput) else None
    return set() if model_id is None else {model_id}


def _loaded(comm_id: str, model: Mapping[str, Any], new_id: Callable[[], str]) -> LoadedComm | None:
    name, module, state = model.get("model_name"), model.get("model_module"), model.get("state")
    if not isinstance(name, str) or not isinstance(module, str) or not isinstance(state, dict):
        return None
    comm = Comm(comm_id, WIDGET_TARGET, name, Place(0))
    # Files may leave out what is said beside the state; peers read it there.
    version = model.get("model_module_version")
    state = {"_model_name": name, "_model_module": module, "_model_module_version": version, **state}
    outputs = None
    if comm.is_output:
        raw = state.get("outputs")
        parsed = (parse_output(output, new_id) for output in (raw if isinstance(raw, list) else ()))
        outputs = [output for output in parsed if output is not None]
        state = {key: value for key, value in state.items() if key not in OUTPUT_TRAITS}
    if comm.is_sparse or version is None:
        state = {key: value for key, value in state.items() if value is not None}
    paths, buffers = [], []
    described = model.get("buffers")
    for buffer in described if isinstance(described, list) else ():
        data = _buffer(buffer)
        if data is not None:
            paths.append(buffer.get("path"))
            buffers.append(data)
    return LoadedComm(comm_id, module, name, join_buffers(state, paths, buffers), outputs)


def _buffer(described: object) -> bytes | None:
    data = described.get("data") if isinstance(described, dict) else None
    if not isinstance(described, dict) or not isinstance(data, str):
        return None
    try:
        return bytes.fromhex(data) if described.get("encoding") == "hex" else b64decode(data)
    except (Base64Error, ValueError):
        return None


def _children_first(loaded: Mapping[str, LoadedComm]) -> Iterator[str]:
    # By hand: a file may nest boxes deeper than Python calls, or in a circle.
    done: set[str] = set()
    for root in loaded:
        pending = [(root, False)]
        while pending:
            comm_id, children_done = pending.pop()
            if children_done:
                yield comm_id
            elif comm_id not in done:
                done.add(comm_id)
                pending.append((comm_id, True))
                children = [child for child in references_within(loaded[comm_id].state) if child in loaded]
                pending.extend((child, False) for child in reversed(children))


# To the file.


def render_widget_state(comms: Mapping[str, Mapping[str, Any]], load: Load) -> dict[str, Any] | None:
    """What stands in a file's metadata for these entries of the runtime document; None for none.

    Args:
        comms: entries of `comms`, by id. Only widgets have a place in the file.
        load: gives the blobs that they name; a trait or output whose blob is missing is left out.
    """
    models = {
        comm_id: _model(entry, load)
        for comm_id, entry in comms.items()
        if entry.get("target_name") == WIDGET_TARGET and isinstance(entry.get("state"), Mapping)
    }
    return {"version_major": 2, "version_minor": 0, "state": models} if models else None


def references_in(entry: Mapping[str, Any], blobs: Mapping[str, bytes]) -> set[str]:
    """The comms that an entry of the document refers to: by its traits, and by views among captured outputs."""
    found = set(views_in(entry.get("outputs", ())))
    for value in entry["state"].values():
        found.update(references_of(value, blobs))
    return found


def views_in(manifests: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The widgets that outputs in the document show."""
    for manifest in manifests:
        data = manifest.get("data")
        view = data.get(WIDGET_VIEW) if isinstance(data, Mapping) else None
        if view is None:
            continue
        try:
            decoded = decode_value(view, _no_blob)
        except (InvalidValue, LookupError):
            continue  # a view is some 100 bytes; whatever needs a blob is none
        model_id = decoded.get("model_id") if isinstance(decoded, dict) else None
        if isinstance(model_id, str):
            yield model_id


def _no_blob(blob_hash: str) -> bytes:
    raise LookupError(blob_hash)


def _model(entry: Mapping[str, Any], load: Load) -> dict[str, Any]:
    state = {}
    for name, value in entry["state"].items():
        try:
            state[name] = decode_value(value, load)
        except (InvalidValue, LookupError):
            continue
    if "outputs" in entry:
        state |= {"msg_id": "", "outputs": list(_outputs(entry["outputs"], load))}
    plain, paths, buffers = split_buffers(state)
    model = {
        "model_name": entry.get("model_name", ""),
        "model_module": entry.get("model_module", ""),
        "model_module_version": str(state.get("_model_module_version", "*")),
        "state": plain,
    }
    if buffers:
        model["buffers"] = [
            {"path": path, "encoding": "base64", "data": b64encode(data).decode()}
            for path, data in zip(paths, buffers, strict=True)
        ]
    return model


def _outputs(manifests: Iterable[Mapping[str, Any]], load: Load) -> Iterator[dict[str, Any]]:
    for manifest in manifests:
        try:
            yield decode_manifest(manifest, load)
        except (InvalidValue, LookupError):
            continue
