"""TCP wires before a kernel's sockets, which can be cut and mended: what is sent on them in between is lost.

Of threads, since they run in the process of a kernel that knows nothing of Trio. libzmq's own `unbind` is no cut: it may still
deliver what is sent after it.
"""

import socket
import threading
from contextlib import suppress

_CHUNK = 64 * 1024


class KernelWire:
    """Takes connections to `port` on 127.0.0.1 and passes them on to `target`, another port there."""

    def __init__(self, port: int, target: int) -> None:
        self._target = target
        self._cut = False
        self._ends: set[socket.socket] = set()
        self._changing = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Ends all connections, and until `mend` each new one at once."""
        with self._changing:
            self._cut = True
            ends, self._ends = self._ends, set()
            for end in ends:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Passes on again."""
        self._cut = False

    def _accept(self) -> None:
        while True:
            outer, _ = self._listener.accept()
            with self._changing:
                if self._cut:
                    outer.close()
                    continue
                inner = socket.create_connection(("127.0.0.1", self._target))
                self._ends |= {outer, inner}
            for end in (outer, inner):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, sink in ((outer, inner), (inner, outer)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._ends.discard(source)
        source.close()
