"""An editor in memory: a replica of a room's notebook, and a client that sends what is written to it."""

from collections.abc import Callable
from typing import Any, cast

from daemon.room import Room
from sync.core.binding import ROOT, ObjId, Replica, Transaction
from tests.fakes.hub_in_memory import Client


class Editor:
    """A peer's replica, and what it does to cells."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.replica = Replica()
        self.replica.apply([room.notebook.log.payload(0, len(room.notebook.log))])

    @property
    def cells(self) -> ObjId:
        return cast("Any", self.replica.get(ROOT, "cells"))[1]  # type: ignore[no-any-return]

    def write(self, client: Client, write: Callable[[Transaction], object]) -> None:
        before = self.replica.heads()
        with self.replica.transaction() as tx:
            write(tx)
        changes = b"".join(change.bytes for change in self.replica.changes_since(before))
        client.sync(self.room.notebook, changes, heads=self.replica.heads())

    def hear(self) -> None:
        self.replica.apply([self.room.notebook.log.payload(0, len(self.room.notebook.log))])
