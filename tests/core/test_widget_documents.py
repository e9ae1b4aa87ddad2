"""Any history of cells and Output widgets: after each commit the document shows what Jupyter's messages mean, no more.

The model takes the kernel's messages one by one and knows nothing of commits, so a commit that fell between a
`clear_output(wait=True)` and its output, or showed half of anything else, would differ from it.
"""

from collections import Counter, defaultdict
from itertools import chain, cycle
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_bridge.core import messages as k
from tests.fakes.runtime_document import RuntimeDocument
from tests.fakes.widget_kernel import Notebook

CELLS = ("a", "b")
OUTS = ("x", "y", "z")
LOG = ("kernel_log", "")
ELSEWHERE = "a request of nobody here"


class Model:
    """Lists of outputs as the Jupyter protocol and ipywidgets' documentation have them, written down naively."""

    def __init__(self) -> None:
        self.lists: dict[tuple[str, str], list[list[str]]] = {("cell", cell): [] for cell in CELLS} | {LOG: []}
        self.waiting: set[tuple[str, str]] = set()
        self.captors: dict[str, list[str]] = defaultdict(list)
        self.cells: dict[str, str] = {}  # of each request of ours

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
                self.waiting.add(self.target(parent))
            case k.ClearOutput():
                self._empty(self.target(parent))
            case k.CommOpen(comm_id=comm_id) if content.data["state"]["_model_name"] == "OutputModel":
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

    def target(self, parent: str) -> tuple[str, str]:
        captors = self.captors[parent]
        if captors:
            return "comm", captors[-1]
        return ("cell", self.cells[parent]) if parent in self.cells else LOG

    def _close(self, comm_id: str) -> None:
        self._leave(comm_id)
        self.lists.pop(("comm", comm_id), None)
        self.waiting.discard(("comm", comm_id))

    def _leave(self, comm_id: str) -> None:
        for captors in self.captors.values():
            if comm_id in captors:
                captors.remove(comm_id)

    def _next(self, parent: str) -> list[list[str]]:
        target = self.target(parent)
        if target in self.waiting:
            self._empty(target)
        return self.lists[target]

    def _empty(self, target: tuple[str, str]) -> None:
        self.waiting.discard(target)
        self.lists[target] = []


def shown(document: RuntimeDocument) -> dict[tuple[str, str], list[list[str]]]:
    plain = document.plain
    found = {
        (f"{kind}", key): entry["outputs"]
        for kind in ("cell", "comm")
        for key, entry in plain[f"{kind}s"].items()
        if "outputs" in entry
    }
    found[LOG] = plain["kernel_log"]
    return {
        place: [
            _short(output, manifest.get("display_id", ""))
            for output, manifest in zip(document.outputs(*place), manifests, strict=True)
        ]
        for place, manifests in found.items()
    }


def _short(output: dict[str, Any], display_id: str) -> list[str]:
    match output["output_type"]:
        case "stream":
            return [output["name"], output["text"]]
        case "error":
            return ["error", output["ename"]]
        case _:
            return ["display", output["data"]["text/plain"], display_id]


class History:
    """A notebook, its kernel and the model. Whatever code is to do happens in a cell, which begins if none runs."""

    def __init__(self, met: Counter[str]) -> None:
        self.notebook, self.model, self.met = Notebook(*CELLS), Model(), met
        self.notebook.kernel.stays_in_callbacks = True
        self.parents: list[k.Header] = [k.Header(msg_id=ELSEWHERE, msg_type="execute_request", session="theirs")]
        self.closed: set[str] = set()

    def hear(self, count: int, *, commits: bool) -> None:
        """The daemon hears so many messages, with a commit after each, or without any."""
        said = self.notebook.kernel.said
        while said and count:
            count -= 1
            message = said[0]
            self._count(message)
            self.model.take(message)
            self.notebook.hear(1)
            if commits:
                self.check()

    def check(self) -> None:
        """A commit, and what it shows."""
        self.met["commits"] += 1
        assert shown(self.notebook.commit()) == self.model.lists

    def act(self, step: str, *arguments: Any) -> None:
        kernel = self.notebook.kernel
        match step, arguments:
            case "cell", (cell,):
                kernel.finish()
                self._begin(cell)
            case "click", ():
                if "button" not in kernel.models:
                    self._within_cell().open("button", "ButtonModel", {})
                kernel.finish()
                self._hear_all()
                cell = self.notebook.runtime.widgets.comms.comms["button"].place.cell_id
                self.notebook.click("button")
                self._read_until_running()
                self.model.cells[kernel.parent.msg_id] = cell
            case "finish", (status,):
                kernel.finish(status)
            case "read", ():
                kernel.read()
                kernel.read_within_cell()
            case "restart", ():
                self.met["restarts while capturing"] += any(model.entered for model in kernel.models.values())
                self.notebook.restart()
                self.model.restart()
                self.closed.clear()
            case _:
                self._code(step, arguments)

    def _code(self, step: str, arguments: tuple[Any, ...]) -> None:
        kernel = self._within_cell()
        match step, arguments:
            case "close", (out,):
                if out in kernel.models:
                    self.met["closed while capturing"] += kernel.models[out].entered > 0
                    kernel.close(out)
                    self.closed.add(out)
            case (("enter" | "leave" | "switch"), (out,)) if out not in self.closed:
                if out not in kernel.models:
                    kernel.open_output(out)
                if step == "switch":
                    kernel.set(out, msg_id=self.parents[len(self.parents) // 2].msg_id)
                else:
                    self.met["entered twice"] += step == "enter" and kernel.models[out].entered > 0
                    getattr(kernel, step)(out)
            case "print", (text, name, late):
                # A thread prints under a request that is over, or under another client's.
                kernel.say(
                    k.Stream(name=name, text=text), parent=self.parents[late % len(self.parents)] if late else None
                )
            case "clear", (wait,):
                kernel.clear(wait=wait)
            case "display", (text, display_id):
                kernel.display(text, display_id)
            case "result", (text,):
                kernel.say(k.ExecuteResult(data={"text/plain": text}, execution_count=1))
            case "update_display", (display_id, text):
                kernel.update_display(display_id, text)
            case "error", (ename,):
                kernel.error(ename)
            case "enter" | "leave" | "switch", _:
                pass  # its widget was closed, and does not come back while this kernel runs
            case _:
                raise AssertionError(step)

    def end(self) -> None:
        """Everything is said, read and heard, and committed at once."""
        kernel = self.notebook.kernel
        while kernel.running or kernel.inbox or kernel.said:
            kernel.finish()
            kernel.read()
            self.hear(-1, commits=False)
        self.check()

    def _begin(self, cell: str) -> None:
        # The daemon sends an execution when the one before is over, as far as it has heard.
        self._hear_all()
        self.model.cells[self.notebook.submit(cell)] = cell
        self._read_until_running()

    def _read_until_running(self) -> None:
        kernel = self.notebook.kernel
        while kernel.running is None:
            if not kernel.read():
                self._hear_all()
        self.parents.append(kernel.parent)

    def _hear_all(self) -> None:
        self.hear(-1, commits=False)

    def _within_cell(self) -> Any:
        if self.notebook.kernel.running is None:
            self._begin("a")
        return self.notebook.kernel

    def _count(self, message: k.KernelMessage) -> None:
        if not isinstance(message.content, k.Stream | k.DisplayData | k.Error):
            return
        parent = message.parent.msg_id
        target = self.model.target(parent)
        self.met["outputs"] += 1
        self.met["captured"] += target[0] == "comm"
        self.met["in nested blocks"] += len(self.model.captors[parent]) > 1
        self.met["captured in callbacks"] += target[0] == "comm" and message.parent.msg_type == "comm_msg"
        self.met["after a clear that waited"] += target in self.model.waiting and bool(self.model.lists[target])
        self.met["display updates of captures"] += isinstance(message.content, k.UpdateDisplayData) and any(
            place[0] == "comm" and any(output[2:] == [message.content.transient.display_id] for output in outputs)  # type: ignore[union-attr] # it has one
            for place, outputs in self.model.lists.items()
        )


Step = tuple[Any, ...]

OUT = st.sampled_from(OUTS)
TEXT = st.sampled_from(["p", "q\n", "a long line\n"])
PRINT = st.tuples(st.just("print"), TEXT, st.sampled_from(["stdout", "stderr"]), st.sampled_from([0, 0, 0, 1, 2, 3]))
DISPLAY = st.tuples(st.just("display"), TEXT, st.sampled_from(["d", "e", None]))
UPDATE = st.tuples(st.just("update_display"), st.sampled_from("de"), TEXT)
CLEAR = st.tuples(st.just("clear"), st.sampled_from([True, True, False]))
ODD: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("result"), TEXT),
    st.tuples(st.just("error"), st.just("ValueError")),
    st.tuples(st.sampled_from(["switch", "close", "leave"]), OUT),
    st.tuples(st.just("restart")),
)
STATEMENT: st.SearchStrategy[Step] = st.one_of(PRINT, PRINT, DISPLAY, DISPLAY, UPDATE, CLEAR, ODD)


def block(of: tuple[str, list[list[Step]]]) -> list[Step]:
    """`with out: ...`"""
    out, body = of
    return [("enter", out), *chain(*body), ("leave", out)]


CODE = st.recursive(
    STATEMENT.map(lambda statement: [statement]),
    lambda code: st.tuples(OUT, st.lists(code, min_size=2, max_size=6)).map(block),
    max_leaves=20,
)
AROUND: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("cell"), st.sampled_from(CELLS)),
    st.tuples(st.just("finish"), st.sampled_from(["ok", "error"])),
    st.tuples(st.sampled_from(["read", "click", "click", "click", "click", "restart"])),
)
STEPS = st.lists(CODE | CODE | CODE | AROUND.map(lambda step: [step]), min_size=3, max_size=16)
# How much of what was said is heard, with commits between the messages or not; and whether there is a commit then.
HEARD = st.tuples(st.sampled_from([0, 1, 2, -1, -1]), st.booleans(), st.booleans())

EXAMPLES = 150


def test_after_each_commit_the_document_is_what_the_messages_mean() -> None:
    met: Counter[str] = Counter()

    @settings(max_examples=EXAMPLES)
    @given(STEPS.map(lambda steps: list(chain(*steps))), st.lists(HEARD, min_size=1, max_size=20))
    def holds(steps: list[Step], hearing: list[tuple[int, bool, bool]]) -> None:
        history = History(met)
        for step, (heard, between, commits) in zip(steps, cycle(hearing), strict=False):
            history.act(*step)
            history.hear(heard, commits=between)
            if commits:
                history.check()
        history.end()

    holds()
    print(f"\n{EXAMPLES} histories: {dict(met)}")
    # What they are about has happened, and often.
    assert len(met) == 10
    assert min(met.values()) > 0
