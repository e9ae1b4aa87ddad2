"""A client of notebookd for Python programs: `open_notebook` for Trio, `BlockingNotebook` for everyone else."""

from sync.client.blocking import BlockingNotebook
from sync.client.cell import Cell
from sync.client.errors import ConnectionLost, NotebookError, ProtocolError, RequestFailed, SyncTimeout
from sync.client.events import EventStream
from sync.client.executions import Execution, Result
from sync.client.notebook import Notebook
from sync.client.opening import open_notebook
from sync.client.outputs import BlobRef, Output
from sync.core.client_session import Event

__all__ = [
    "BlobRef",
    "BlockingNotebook",
    "Cell",
    "ConnectionLost",
    "Event",
    "EventStream",
    "Execution",
    "Notebook",
    "NotebookError",
    "Output",
    "ProtocolError",
    "RequestFailed",
    "Result",
    "SyncTimeout",
    "open_notebook",
]
