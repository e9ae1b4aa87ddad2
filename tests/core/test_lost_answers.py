"""Whatever a kernel drops, loses or says too late of executions, widgets and the daemon's questions: all of it ends."""

import random
from collections.abc import Callable

import pytest

from daemon.core.effects import SendExecute, SendQuestion
from kernel_bridge.core import messages as k
from tests.fakes.widget_kernel import Notebook


class Weather:
    """A notebook, its kernel, its peers, and what goes wrong between them, at random."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.notebook = Notebook(echo=self.random.random() < 0.5)
        self.notebook.widget("s")
        self.notebook.kernel.stays_in_callbacks = self.random.random() < 0.5
        self.runs = [self.notebook.submit("a")]
        self.steps: list[tuple[int, Callable[[], object]]] = [
            (20, lambda: self.notebook.set_by_peer("s", value=self.random.choice([1, 2, 3.5, "bad"]))),
            (10, lambda: self.notebook.click("s")),
            (10, lambda: self.runs.append(self.notebook.submit(self.random.choice("ab")))),
            (5, lambda: self.notebook.runtime.cancel(self.random.choice(self.runs))),
            (5, self._interrupt),
            (2, self.notebook.reconnect),
            (18, self.notebook.kernel.read),
            (5, self.notebook.kernel.finish),
            (5, self._lose),
            (5, self._pass_time),
            (5, self._leave_unread),
            (10, lambda: self.notebook.hear(self.random.randint(1, 4))),
        ]

    def step(self) -> None:
        weights, steps = zip(*self.steps, strict=True)
        self.random.choices(steps, weights)[0]()
        self.notebook.collect()
        self.expire()

    def expire(self) -> None:
        runtime = self.notebook.runtime
        if runtime.deadline is not None and runtime.deadline <= self.notebook.now:
            runtime.expire()
            self.notebook.collect()
            assert runtime.deadline is None or runtime.deadline > self.notebook.now, "it would be looked at for ever"

    def _interrupt(self) -> None:
        inbox = self.notebook.kernel.inbox
        if inbox and isinstance(inbox[0], SendExecute | SendQuestion):
            inbox.popleft()  # measured: 8 of 200 interrupts of short cells
        self.notebook.runtime.interrupt()

    def _lose(self) -> None:
        said = self.notebook.kernel.said
        index = self.random.randrange(len(said) or 1)
        if said and isinstance(said[index].content, k.Status):
            del said[index]

    def _pass_time(self) -> None:
        self.notebook.now += 3 * self.random.random()

    def _leave_unread(self) -> None:
        inbox = self.notebook.kernel.inbox
        if inbox and isinstance(inbox[-1], SendExecute | SendQuestion):
            self.notebook.runtime.not_taken(inbox.pop())


@pytest.mark.parametrize("seed", range(200))
def test_all_ends_and_no_deadline_stays_in_the_past(seed: int) -> None:
    weather = Weather(seed)
    notebook = weather.notebook
    for _ in range(60):
        weather.step()
    kernel, runtime = notebook.kernel, notebook.runtime
    while kernel.running or kernel.inbox or kernel.said or notebook.pass_deadline():
        kernel.finish()
        kernel.read()
        notebook.hear()
    assert (runtime.queue.waiting, runtime.queue.in_flight) == ((), None)
    assert {runtime.queue.find(run) is not None for run in weather.runs} == {True}
    assert runtime.widgets.forwarding.open_messages == set()
    assert runtime.kernel_status == "idle"
    assert notebook.commit().state("s")["value"] == kernel.models["s"].state["value"]
