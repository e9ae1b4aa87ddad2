"""Which comms nobody can see: what closed widgets left, and what was shown where something else is now.

The kernel keeps them open. ipywidgets closes a box alone, not its children, nor any widget's Layout and Style: each progress
bar of tqdm leaves ten comms behind.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import chain

from daemon.core.comm import Comm
from sync.core.widget_tree import closure


def unused_comms(comms: Mapping[str, Comm], is_shown: Callable[[str], bool]) -> list[str]:
    """Those that were used and are not any more, oldest first; some 10 ms for 10 000.

    Args:
        comms: all that are open, in the order of their opening.
        is_shown: whether an output shows the comm with this id.
    """

    def is_root(comm: Comm) -> bool:
        # An Output widget has what the kernel may not have yet, and no kernel can be asked for what is no widget.
        return not comm.was_used or not comm.is_widget or comm.is_output or comm.in_hand or is_shown(comm.comm_id)

    def references(comm_id: str) -> Iterable[str]:
        comm = comms.get(comm_id)
        # A link acts on widgets, it does not show them.
        return () if comm is None or comm.is_link else chain.from_iterable(comm.references.values())

    used = closure((comm_id for comm_id, comm in comms.items() if is_root(comm)), references)
    return [comm_id for comm_id in comms if comm_id not in used]
