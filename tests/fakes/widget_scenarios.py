"""What people do with widgets, as cells and as what a peer then does: recorded once with a real kernel, replayed without."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Cell: TypeAlias = str


@dataclass(frozen=True)
class Update:
    """A peer sets traits of the first (or `index`-th) widget of a model."""

    model: str
    state: Mapping[str, Any]
    index: int = 0


@dataclass(frozen=True)
class Drag:
    """A peer sets one trait to many values, as fast as the kernel answers some of them."""

    model: str
    trait: str
    values: Sequence[float]


@dataclass(frozen=True)
class Custom:
    """A peer sends a custom message."""

    model: str
    content: Any


Step: TypeAlias = Cell | Update | Drag | Custom

SHOW = "print([(o['output_type'], o.get('text', o.get('data', {}).get('text/plain'))) for o in out.outputs])"

SCENARIOS: Mapping[str, Sequence[Step]] = {
    "output": [
        "import ipywidgets as w\nfrom IPython.display import clear_output, display\n"
        "out, inner = w.Output(), w.Output()\ndisplay(out)",
        "with out:\n    print('one')\n    with inner:\n        print('inside')\n    print('two')\n"
        "    h = display('v1', display_id='d')\n    1 / 0\nprint('outside')",
        SHOW,
        "h.update('v2')",
        SHOW,
        "with out:\n    clear_output(wait=True)",
        "with out:\n    print('fresh')",
        SHOW,
        "out.append_stdout('appended')\nout.append_display_data('shown')",
        "for n in range(3):\n    with out:\n        display(n)",
        SHOW,
        "out.clear_output(wait=True)\nout.append_stdout('alone')",
        SHOW,
        "out.outputs = ()",
        SHOW,
        "inner.close()",
    ],
    "captures": [
        "import ipywidgets as w, sys\na, b, c = w.Output(), w.Output(), w.Output()\nw.VBox([a, b, c])",
        "with a:\n    print('a1')\n    with b:\n        print('b1')\n        with c:\n            print('c1')\n"
        "            with a:\n                print('c2')\n        print('b2')\n    print('a2')\nprint('cell')",
        "s = w.IntSlider(max=10)\ndef seen(change):\n    print('value', change['new'])\n    with b:\n"
        "        print('observed', change['new'])\ns.observe(seen, 'value')\ns",
        Update("IntSliderModel", {"value": 99}),
        "d = w.Output()\nwith d:\n    print('lost with it', flush=True)\n    d.close()\n    print('after the close')\n"
        "print('end')",
        "with a:\n    print('in a', flush=True)\n    a.msg_id = 'of nobody'\n    print('not in a')",
        "with b:\n    for n in range(2000):\n        print('line', n)\n    print('warned', file=sys.stderr)",
        "print([len(o['text']) for o in b.outputs])",
    ],
    "threads": [
        "import ipywidgets as w, threading\nout = w.Output()\nout",
        "def work():\n    with out:\n        print('captured in a thread')\n    out.append_stdout('appended in a thread')\n"
        "t = threading.Thread(target=work)\nt.start(); t.join()",
        SHOW,
        "import asyncio\nfor n in range(3):\n    with out:\n        print('turn', n)\n    await asyncio.sleep(.05)\n"
        + SHOW,
        SHOW,
    ],
    "drag": [
        "import ipywidgets as w\ns = w.IntSlider(max=100)\nseen = []\ns.observe(lambda c: seen.append(c['new']), 'value')\ns",
        Drag("IntSliderModel", "value", [n % 150 for n in range(0, 400, 2)]),
        Update("IntSliderModel", {"value": 1000}),
        "print(s.value, len(seen) < 200)",
        Update("IntSliderModel", {"value": "no number"}),
        "import time\nfor n in range(5):\n    s.value = n",
        "print(s.value)",
    ],
    "button": [
        "import ipywidgets as w\nb, out = w.Button(description='go'), w.Output()\n"
        "def go(_):\n    print('clicked')\n    with out:\n        print('captured')\nb.on_click(go)\nw.VBox([b, out])",
        "1",
        Custom("ButtonModel", {"event": "click"}),
        Custom("ButtonModel", {"event": "click"}),
        SHOW,
        "b.send({'hello': 1}, [b'bytes'])",
        "b.close()",
    ],
    "interact": [
        "import ipywidgets as w, io, matplotlib\nmatplotlib.use('agg')\nimport matplotlib.pyplot as plt\n"
        "from IPython.display import Image, display\n"
        "def draw(n):\n    fig, ax = plt.subplots(figsize=(1, 1), dpi=30)\n    ax.plot([0, n])\n    f = io.BytesIO()\n"
        "    fig.savefig(f, format='png')\n    plt.close(fig)\n    print('n is', n)\n    display(Image(f.getvalue()))\n"
        "w.interact(draw, n=(0, 10));",
        Update("IntSliderModel", {"value": 9}),
        Update("IntSliderModel", {"value": 2}),
    ],
    "tqdm": [
        "from tqdm.notebook import tqdm\nfor n in tqdm(range(200), desc='bar', mininterval=0):\n    pass\nprint('done')",
        "for n in tqdm(range(3), leave=False):\n    pass",
    ],
    "boxes": [
        "import ipywidgets as w\ntab = w.Tab([w.VBox([w.IntSlider(description=str(n)) for n in range(3)]),\n"
        "    w.HBox([w.Text('a'), w.Checkbox(True)], layout=w.Layout(border='1px solid'))], titles=['one', 'two'])\ntab",
        "tab.children[1].layout.border = None\ntab.children = tab.children[:1]\ntab.selected_index = 0",
    ],
    "image": [
        "import ipywidgets as w\ni = w.Image(value=bytes(range(256)) * 8, format='png')\ni",
        "i.value = b'small'",
        Update("ImageModel", {"value": b"from a peer"}),
        "print(bytes(i.value))",
    ],
    "anywidget": [
        "import anywidget, traitlets\nclass Counter(anywidget.AnyWidget):\n"
        "    _esm = 'export default { render({ model, el }) { el.textContent = model.get(\"n\") } }' + ' ' * 1200\n"
        "    _css = '.x { color: red }'\n    n = traitlets.Int(3).tag(sync=True)\n"
        "    raw = traitlets.Bytes(bytes(1000)).tag(sync=True)\nc = Counter()\nc",
        Update("AnyModel", {"n": 4}),
        "print(c.n, len(c.raw))",
        # traitlets' Bytes refuses what ipywidgets hands it, a memoryview: what the peers see goes back.
        Update("AnyModel", {"raw": b"\x00\x01"}),
        "c.n = len(c.raw)",
        "c.raw = b'new'",
    ],
}
