"""Lifting the limit of ipykernel's iopub queue.

ipykernel publishes through a socket with libzmq's default limit of 1 000 unsent messages per subscriber, and drops what
is beyond, silently: 54 to 79 % of a flood while the subscriber was stalled for 6 s (measured). Only the kernel itself
can change that, and only the thread that owns the socket may touch it. The option holds for live connections: one made
later has the old limit again.

The request is silent, and all of it is one user expression: no name is left in the user's namespace, the execution
count does not move, and an error in it stays in the reply.
"""

from typing import Any, Final

from kernel_bridge.core.messages import Content, ExecuteReply, KernelInfoReply

# 2 s: the iopub thread answers in under a millisecond; if it does not, the user's first cell shall not wait for long.
_EXPRESSION: Final = """(
lambda thread, option, lifted: (
    thread.schedule(lambda: lifted.put(
        thread.socket.setsockopt(option, 0) or thread.socket.getsockopt(option)
    )),
    lifted.get(timeout=2),
)[1]
)(
    __import__("ipykernel.kernelapp").kernelapp.IPKernelApp.instance().iopub_thread,
    __import__("zmq").SNDHWM,
    __import__("queue").SimpleQueue(),
)"""
_NAME: Final = "send_queue_limit"


def can_lift(info: KernelInfoReply) -> bool:
    """Whether the kernel is ipykernel itself: its wrappers for other languages do not run Python code."""
    return info.implementation == "ipython"


def lift_request() -> dict[str, Any]:
    """The content of the execute_request that lifts the limit."""
    return {
        "code": "",
        "silent": True,
        "store_history": False,
        "user_expressions": {_NAME: _EXPRESSION},
        "allow_stdin": False,
        "stop_on_error": False,
    }


def was_lifted(reply: Content) -> bool:
    """Whether the reply says that the socket's limit is now 0, that is, none."""
    if not isinstance(reply, ExecuteReply) or not reply.user_expressions:
        return False
    result = reply.user_expressions.get(_NAME)
    data = result.get("data") if isinstance(result, dict) else None
    return isinstance(data, dict) and data.get("text/plain") == "0"
