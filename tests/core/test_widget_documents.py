"""Any history of cells and Output widgets: after each commit the document shows what Jupyter's messages mean, no more.

The model takes the kernel's messages one by one and knows nothing of commits, so a commit that fell between a
`clear_output(wait=True)` and its output, or showed half of anything else, would differ from it.
"""

from collections import defaultdict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_bridge.core import messages as k
from tests.fakes.runtime_document import RuntimeDocument
from tests.fakes.widget_kernel import Notebook

CELLS = ("a", "b")
OUTS = ("x", "y", "z")


class Model:
    """Lists of outputs as the Jupyter protocol and ipywidgets' documentation have them, written down naively."""

    def __init__(self) -> None:
        self.lists: dict[tuple[str, str], list[list[str]]] = {("cell", cell): [] for cell in CELLS}
        self.waiting: set[tuple[str, str]] = set()
        self.captors: dict[str, list[str]] = defaultdict(list)
        self.cells: dict[str, str] = {}

    def take(self, message: k.KernelMessage) -> None:
        parent, content = message.parent.msg_id, message.content
        match content:
            case k.ExecuteInput():
                # The whole protocol of a start: the cell's outputs go when it runs, not when it is asked to.
                self._empty(("cell", self.cells[parent]))
            case k.Stream(name=name, text=text):
                shown = self._next(parent)
                if shown and shown[-1][0] == name:
                    shown[-1] = [name, shown[-1][1] + text]
                else:
                    shown.append([name, text])
            case k.UpdateDisplayData():
                assert content.transient is not None
                for outputs in self.lists.values():
                    for index, output in enumerate(outputs):
                        if output[0] == "display" and output[2] == content.transient.display_id:
                            outputs[index] = ["display", content.data["text/plain"], output[2]]
            case k.DisplayData():
                display_id = "" if content.transient is None else str(content.transient.display_id)
                self._next(parent).append(["display", content.data["text/plain"], display_id])
            case k.Error(ename=ename):
                self._next(parent).append(["error", ename])
            case k.ClearOutput(wait=True):
                self.waiting.add(self._target(parent))
            case k.ClearOutput():
                self._empty(self._target(parent))
            case k.CommOpen(comm_id=comm_id):
                self.lists["comm", comm_id] = []
            case k.CommClose(comm_id=comm_id):
                self._close(comm_id)
            case k.CommMsg(comm_id=comm_id, data={"method": "update", "state": {"msg_id": str(msg_id)}}):
                self._leave(comm_id)
                if msg_id:
                    self.captors[msg_id].append(comm_id)
            case _:
                pass

    def restart(self) -> None:
        for kind, comm_id in list(self.lists):
            if kind == "comm":
                self._close(comm_id)

    def _close(self, comm_id: str) -> None:
        self._leave(comm_id)
        self.lists.pop(("comm", comm_id), None)
        self.waiting.discard(("comm", comm_id))

    def _leave(self, comm_id: str) -> None:
        for captors in self.captors.values():
            if comm_id in captors:
                captors.remove(comm_id)

    def _target(self, parent: str) -> tuple[str, str]:
        captors = self.captors[parent]
        return ("comm", captors[-1]) if captors else ("cell", self.cells[parent])

    def _next(self, parent: str) -> list[list[str]]:
        target = self._target(parent)
        if target in self.waiting:
            self._empty(target)
        return self.lists[target]

    def _empty(self, target: tuple[str, str]) -> None:
        self.waiting.discard(target)
        self.lists[target] = []


def shown(document: RuntimeDocument) -> dict[tuple[str, str], list[list[str]]]:
    plain = document.plain
    found = {("cell", key): document.outputs("cell", key) for key in plain["cells"]}
    found |= {("comm", key): document.outputs("comm", key) for key in plain["comms"]}
    ids = {
        (kind, key): [manifest.get("display_id", "") for manifest in plain[f"{kind}s"][key]["outputs"]]
        for kind, key in found
    }
    return {
        place: [_short(output, display_id) for output, display_id in zip(outputs, ids[place], strict=True)]
        for place, outputs in found.items()
    }


def _short(output: dict[str, Any], display_id: str) -> list[str]:
    match output["output_type"]:
        case "stream":
            return [output["name"], output["text"]]
        case "error":
            return ["error", output["ename"]]
        case _:
            return ["display", output["data"]["text/plain"], display_id]


OUT = st.sampled_from(OUTS)
TEXT = st.sampled_from(["p", "q\n", "a long line\n"])
STEP = st.one_of(
    st.tuples(st.just("begin"), st.sampled_from(CELLS)),
    st.tuples(st.just("finish"), st.sampled_from(["ok", "error"])),
    st.tuples(st.sampled_from(["read", "await", "restart"])),
    st.tuples(st.sampled_from(["open", "enter", "enter", "leave", "close"]), OUT),
    st.tuples(st.just("print"), TEXT, st.sampled_from(["stdout", "stderr"])),
    st.tuples(st.just("clear"), st.booleans()),
    st.tuples(st.just("display"), TEXT, st.sampled_from([None, "d", "e"])),
    st.tuples(st.just("update_display"), st.sampled_from("de"), TEXT),
    st.tuples(st.just("error"), st.just("ValueError")),
)


def act(notebook: Notebook, model: Model, step: str, arguments: tuple[Any, ...]) -> None:
    kernel = notebook.kernel
    match step, arguments:
        case "begin", (cell,):
            if kernel.running is None:
                model.cells[notebook.submit(cell)] = cell
        case "finish", (status,):
            kernel.finish(status)
        case "read", ():
            kernel.read()
        case "await", ():
            kernel.read_within_cell()
        case "restart", ():
            notebook.restart()
            model.restart()
        case _ if kernel.running is None:
            pass
        case "open", (out,):
            if out not in kernel.models and out not in notebook.runtime.widgets.comms._closed:
                kernel.open_output(out)
        case (("enter" | "leave" | "close"), (out,)):
            if out in kernel.models:
                getattr(kernel, step)(out)
        case "print", (text, name):
            kernel.print(text, name)
        case "clear", (wait,):
            kernel.clear(wait=wait)
        case "display", (text, display_id):
            kernel.display(text, display_id)
        case "update_display", (display_id, text):
            kernel.update_display(display_id, text)
        case "error", (ename,):
            kernel.error(ename)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(STEP, st.booleans()), max_size=50))
def test_after_each_commit_the_document_is_what_the_messages_mean(
    history: list[tuple[tuple[Any, ...], bool]],
) -> None:
    notebook, model = Notebook(*CELLS), Model()

    def hear(*, commits: bool) -> None:
        while notebook.kernel.said:
            model.take(notebook.kernel.said[0])
            notebook.hear(1)
            if commits:
                assert shown(notebook.commit()) == model.lists

    for (step, *arguments), commits in history:
        act(notebook, model, step, tuple(arguments))
        hear(commits=commits)
    kernel = notebook.kernel
    while kernel.running or kernel.inbox or kernel.said:
        kernel.finish()
        kernel.read()
        hear(commits=False)
    assert shown(notebook.commit()) == model.lists
