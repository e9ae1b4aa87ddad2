"""Which Output widget captures what: routing, and nothing else.

ipywidgets says it in the widget's state: while `msg_id` is not empty, whatever has that message as its parent is the
widget's. The parent may be any request, an execution or a comm message (callbacks, interact), and is not the parent of
the message that brought the state.
"""


class OutputCaptureRouter:
    """Two maps: parent message -> the widgets that capture it, innermost last; widget -> the message it captures.

    A widget is on at most one stack, so both are bounded by the number of comms; their depth needs no bound, as each step
    costs the same however deep.
    """

    def __init__(self) -> None:
        self._stacks: dict[str, dict[str, None]] = {}  # an ordered set of comm ids
        self._msg_ids: dict[str, str] = {}

    def set_msg_id(self, comm_id: str, msg_id: str) -> None:
        """The `msg_id` in an Output widget's state is now this; "" ends its capture.

        A value that it has already changes nothing: the kernel repeats the whole state when it is asked for it, which
        must not bring an outer widget to the top.
        """
        if self._msg_ids.get(comm_id, "") == msg_id:
            return
        self.close(comm_id)
        if msg_id:
            self._msg_ids[comm_id] = msg_id
            self._stacks.setdefault(msg_id, {})[comm_id] = None

    def target(self, parent_msg_id: str) -> str | None:
        """The comm id of the innermost widget that captures the outputs of this parent."""
        stack = self._stacks.get(parent_msg_id)
        return next(reversed(stack)) if stack else None

    def capturing(self, comm_id: str) -> str | None:
        """The message whose outputs this widget captures, whether or not an inner one gets them."""
        return self._msg_ids.get(comm_id)

    def close(self, comm_id: str) -> None:
        """The widget captures nothing any more: its comm is closed, or it left its context."""
        msg_id = self._msg_ids.pop(comm_id, None)
        if msg_id is not None:
            stack = self._stacks[msg_id]
            del stack[comm_id]
            if not stack:
                del self._stacks[msg_id]

    def clear(self) -> None:
        """The kernel and all its widgets are gone."""
        self._stacks.clear()
        self._msg_ids.clear()
