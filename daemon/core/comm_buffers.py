"""Binary values in a comm's state: on Jupyter's wire they are frames beside the JSON, named by paths into the state."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

State: TypeAlias = dict[str, Any]


def join_buffers(state: Mapping[str, Any], paths: object, buffers: Sequence[Any]) -> State:
    """Puts buffers back at their paths, as bytes.

    Args:
        state: a message's state; it is not changed.
        paths: its `buffer_paths`, lists of keys and indexes, as anybody may have sent them: one that leads nowhere is
            left out with its buffer.
        buffers: in the order of their paths.
    """
    joined: State = dict(state)
    if not isinstance(paths, list):
        return joined
    # Containers that are copies already. Each is copied once: a list of a thousand arrays has a thousand paths.
    ours: dict[int, Any] = {id(joined): joined}
    for path, buffer in zip(paths, buffers, strict=False):
        if isinstance(path, list) and path:
            _put(joined, path, bytes(buffer), ours)
    return joined


def is_place(state: Mapping[str, Any], path: Sequence[str | int]) -> bool:
    """Whether `join_buffers` would put a buffer there."""
    container: Any = state
    for step in path[:-1]:
        container = _child(container, step)
    return bool(path) and _takes(container, path[-1])


def split_buffers(state: Mapping[str, Any]) -> tuple[State, list[list[str | int]], tuple[bytes, ...]]:
    """The state without its bytes, their paths, and the bytes, as ipywidgets sends them.

    A map's key is taken out, a list's item becomes null. Tuples become lists; deep states are refused before.
    """
    paths: list[list[str | int]] = []
    buffers: list[bytes] = []

    def stripped(items: Iterable[tuple[Any, Any]], path: list[str | int]) -> Iterator[tuple[Any, Any]]:
        for key, value in items:
            here = [*path, key]
            if isinstance(value, bytes):
                paths.append(here)
                buffers.append(value)
                yield key, _TAKEN
            elif isinstance(value, dict):
                yield key, {name: kept for name, kept in stripped(value.items(), here) if kept is not _TAKEN}
            elif isinstance(value, list | tuple):
                yield key, [None if kept is _TAKEN else kept for _, kept in stripped(enumerate(value), here)]
            else:
                yield key, value

    plain = {name: kept for name, kept in stripped(state.items(), []) if kept is not _TAKEN}
    return plain, paths, tuple(buffers)


_TAKEN = object()


def _put(root: State, path: Sequence[Any], value: bytes, ours: dict[int, Any]) -> None:
    container: Any = root
    for step in path[:-1]:
        child = _child(container, step)
        if not isinstance(child, dict | list):
            return
        if id(child) not in ours:
            child = container[step] = dict(child) if isinstance(child, dict) else list(child)
            ours[id(child)] = child
        container = child
    if _takes(container, path[-1]):
        container[path[-1]] = value


def _takes(container: Any, step: Any) -> bool:
    return isinstance(step, str) if isinstance(container, dict) else _is_index(container, step)


def _child(container: Any, step: Any) -> Any:
    if isinstance(container, dict):
        return container.get(step) if isinstance(step, str) else None
    return container[step] if _is_index(container, step) else None


def _is_index(container: Any, step: Any) -> bool:
    return isinstance(container, list) and type(step) is int and 0 <= step < len(container)
