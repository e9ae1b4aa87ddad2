"""A client of notebookd for Python programs: `open_notebook` for Trio, `BlockingNotebook` for everyone else."""

from sync.client.blob_refs import BlobRef
from sync.client.blocking import BlockingNotebook
from sync.client.cell import Cell
from sync.client.errors import ConnectionLost, NotebookError, ProtocolError, RequestFailed, SyncTimeout, WidgetClosed
from sync.client.events import EventStream
from sync.client.executions import Execution, Result
from sync.client.notebook import Notebook
from sync.client.opening import open_notebook
from sync.client.outputs import Output
from sync.client.widgets import Widget, Widgets
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
    "Widget",
    "WidgetClosed",
    "Widgets",
    "open_notebook",
]
