"""How much of what was sent to the kernel it has not shown to have read.

libzmq counts the messages that wait, and not their bytes: a thousand of the largest are 8 GB. A kernel reads a channel in
order, so anything that has one of our messages as its parent says that it has read that one and all before it.
"""

from collections import OrderedDict
from typing import Final

# Some of the largest messages that a peer may send, and any number of common ones. Beyond, only executions are sent, of which
# there is one at a time: for a kernel that never shows that it has read the rest, their answers do.
MAX_UNREAD_BYTES: Final = 128 * 2**20


class Unread:
    """The messages of one channel.

    Attributes:
        nbytes: of those that were not read, as far as is known.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self._sizes: OrderedDict[str, int] = OrderedDict()

    @property
    def is_full(self) -> bool:
        """Whether no more should be sent."""
        return self.nbytes >= MAX_UNREAD_BYTES

    def sent(self, msg_id: str, nbytes: int) -> None:
        """A message went out."""
        self._sizes[msg_id] = nbytes
        self.nbytes += nbytes

    def seen(self, msg_id: str) -> None:
        """The kernel said something that has this parent."""
        if msg_id not in self._sizes:
            return
        earlier = None
        while earlier != msg_id:
            earlier, nbytes = self._sizes.popitem(last=False)
            self.nbytes -= nbytes

    def clear(self) -> None:
        """The connection is new: what was not read is lost."""
        self.nbytes = 0
        self._sizes.clear()
