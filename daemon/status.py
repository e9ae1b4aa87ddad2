"""What the daemon says of itself at `GET /api/status`, which `notebookd status` shows (docs/wire.md)."""

import os
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from daemon.hub import Hub
    from daemon.room import Room


def describe(hub: "Hub") -> dict[str, Any]:
    """The daemon and its notebooks, as JSON; `memory_bytes` where there is a /proc."""
    memory = _memory_bytes()
    return {
        "version": hub.version,
        "pid": os.getpid(),
        "started_at": hub.started_at,
        "uptime_seconds": round(hub.uptime, 1),
        **({} if memory is None else {"memory_bytes": memory}),
        "peers": len(hub.connections),
        "tasks": trio.lowlevel.current_statistics().tasks_living,
        "notebooks": [_describe_room(room) for room in hub.rooms.values()],
    }


def _describe_room(room: "Room") -> dict[str, Any]:
    queue, kernel = room.runtime.queue, room.kernels.kernel
    return {
        "id": room.id,
        "path": room.shown_path,
        "notebook": room.notebook.url,
        "runtime": room.runtime_document.url,
        "kernel": {
            "status": room.runtime.kernel_status,
            "name": room.kernel_name() if kernel is None else kernel.spec.name,
            **({} if kernel is None else {"pid": kernel.pid}),
        },
        "queue": {
            "executing": None if queue.running is None else queue.running.execution_id,
            "queued": [*queue.waiting],
        },
        "peers": len(room.notebook.subscribers),
        "changed": room.file.changed,
    }


def _memory_bytes() -> int | None:
    try:
        with open("/proc/self/statm", "rb") as file:  # not a disk, and read whole in 20 us
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:  # macOS
        return None
