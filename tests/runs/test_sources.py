"""What of the source a function can run: the part that its cache key hashes."""

import ast
import sys

import pytest
from reading import stranger

import palimpsest
from palimpsest import kernels, selection
from palimpsest.runs import sources

ROOM = {
    "__init__": "",
    "entry": '''
import os
import palimpsest.room.whole.part
from . import near
from . import table
from palimpsest.room.deep import thing as renamed
from .inner.leaf import x
from .outer import y
from .registry import METHODS
SIZE = 3
class Base:
    def method(self):
        return near.used()
class Child(Base):
    """Its docstring."""
    pass
def unused_neighbour():
    return near.unused()
def answer():
    """Its docstring."""
    from palimpsest.room.lazy import late
    from . import effect
    return Child().method(), renamed, y(), METHODS, late() + SIZE, getattr(table, "name"), os, pick("triton")
def pick(chosen):
    if chosen == "triton":
        return 8
''',
    "near": "def used(): return helper()\ndef helper(): return 1\ndef unused(): return 2",
    "deep": "from .far import thing",
    "far": "thing = 1\nother = 2",
    "lazy": "from .near import unused\ndef late(): return 1\ndef early(): return unused()",
    "table": "name = 1\nother = 2",
    "effect": "from .registry import METHODS\nMETHODS['three'] = lambda: 5",
    "stranger": "def far(): return 1",
    "registry": "METHODS = {}\ndef method(function):\n    METHODS[function.__name__] = function",
    "dynamic": "import importlib\ndef answer(name): return importlib.import_module(name)",
    "inner.__init__": "from palimpsest.room.registry import method\nfrom . import filled\nfree = 1",
    "inner.leaf": "x = 1",
    "inner.filled": """
from ..registry import method
@method
def one(): return step()
def step(): return 1
spare = 1
""",
    "outer.__init__": "def y(): return 1\ndef z(): return 2",
    "whole.__init__": "switch = []\nswitch.append(1)\ncalm = 2",
    "whole.part": "from ..registry import METHODS\nMETHODS['two'] = lambda: 2\nquiet = 1",
}


@pytest.fixture
def room(tmp_path, monkeypatch, forget):
    """A project of one package, palimpsest.room: `write(module, text)` gives the digest of `entry.answer` then."""
    folder = tmp_path / "room"
    monkeypatch.setattr(palimpsest, "__path__", [str(tmp_path)])

    def write(name: str, text: str) -> str:
        file = folder / f"{name.replace('.', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        forget()
        return sources._closure("palimpsest.room.entry", "answer", False).digest

    for name, text in reversed(ROOM.items()):
        file = folder / f"{name.replace('.', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return write


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("entry", "SIZE = 3", "SIZE = 4"),
        ("entry", "class Child(Base):", "class Child(Base, object):"),
        ("entry", "return near.used()", "return near.used() + 1"),  # the base class's method
        ("near", "return 1", "return 3"),  # what the function's callee calls
        ("far", "thing = 1", "thing = 3"),  # through a module that hands it on
        ("deep", "from .far import thing", "from .far import other as thing"),
        ("entry", "return 8", "return 9"),  # no kernel's, so what Triton does not run elsewhere runs here
        ("lazy", "return 1", "return 3"),  # imported when it runs
        ("effect", "lambda: 5", "lambda: 6"),  # imported when it runs, for what the import does
        ("table", "other = 2", "other = 3"),  # of a module whose attribute is looked up by a string
        ("outer.__init__", "return 1", "return 3"),
        ("inner.filled", "def one(): return", "def one(): return 0 *"),  # registered at import, nowhere named
        ("inner.filled", "def step(): return 1", "def step(): return 3"),  # what that calls
        ("inner.filled", "@method", "@method\ndef more(): return 1\n@method"),
        ("whole.__init__", "append(1)", "append(2)"),  # run at import of a package around what is imported
        ("whole.part", "lambda: 2", "lambda: 3"),  # stored into a registry at import
        ("stranger", "def far(): return 1", None),
        ("entry", "return near.unused()", None),
        ("near", "return 2", None),
        ("far", "other = 2", None),
        ("lazy", "def early(): return", None),
        ("outer.__init__", "def z(): return 2", None),
        ("inner.__init__", "free = 1", None),
        ("inner.filled", "spare = 1", None),
        ("whole.part", "quiet = 1", None),
    ],
)
def test_a_digest_follows_what_is_in_reach_and_nothing_else(room, name, old, new):
    text = ROOM[name]
    before = room(name, text)
    assert text.count(old) == 1
    assert room(name, text) == before
    after = room(
        name, text.replace(old, new or old.replace("2", "20").replace("1", "10").replace("return", "assert"))
    )
    assert (after != before) == (new is not None)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SIZE = 3", "SIZE = 3  # a comment"),
        ("SIZE = 3", 'SIZE = 3\n"""What it is the size of."""'),
        ('    """Its docstring."""\n    from', '    """Another."""\n    from'),
        ('    """Its docstring."""\n    pass', "    pass"),
        ("    return Child().method(), renamed, y(),", "    return (Child().method(),\n        renamed, y(),"),
    ],
)
def test_comments_docstrings_and_formatting_do_not_count(room, old, new):
    before = room("entry", ROOM["entry"])
    text = ROOM["entry"].replace(old, new)
    assert text != ROOM["entry"]
    if "return (" in new:
        text = text.replace('pick("triton")', 'pick("triton"))')
    assert room("entry", text) == before


def test_code_that_imports_by_strings_depends_on_the_whole_project(room):
    room("entry", ROOM["entry"])
    empty = {"palimpsest.room"}
    assert sources._closure("palimpsest.room.dynamic", "answer", False).modules == sources.project().keys() - empty


def is_triton(name: str) -> bool:
    return name.startswith("palimpsest.kernels.") and name.endswith("triton")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("unlearning.language.optimiser", "Survivors"),
        ("decoding.models", "Decoder"),
        ("nets.quantised", "Quantised"),
    ],
)
def test_the_cpu_path_of_an_operation_does_not_drag_triton_in(module, name):
    with_triton, without = (sources._closure(f"palimpsest.{module}", name, triton) for triton in (True, False))
    assert list(filter(is_triton, with_triton.modules))
    assert not list(filter(is_triton, without.modules))
    assert with_triton.digest != without.digest


def test_no_operation_reaches_triton_where_it_cannot_run():
    ops = [name.split(".")[2] for name in sources.project() if is_triton(name) and name.endswith(".triton")]
    assert len(ops) == 9
    for op in ops:
        found = sources._closure(f"palimpsest.kernels.{op}", op, False).modules
        assert f"palimpsest.kernels.{op}.reference" in found
        assert not list(filter(is_triton, found))
        assert f"palimpsest.kernels.{op}.triton" in sources._closure(f"palimpsest.kernels.{op}", op, True).modules


@pytest.mark.parametrize(("cuda", "interpret", "runs"), [(0, "", 0), (0, "0", 0), (0, "1", 1), (1, "", 1)])
def test_triton_runs_on_cuda_and_interpreted(monkeypatch, cuda, interpret, runs):
    monkeypatch.setattr(sources.torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setenv("TRITON_INTERPRET", interpret)
    assert sources.triton_runs() == bool(runs)


@pytest.mark.parametrize("interpret", ["0", "1"])
def test_a_closure_has_the_branches_of_triton_where_that_runs(monkeypatch, interpret):
    monkeypatch.setattr(sources.torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("TRITON_INTERPRET", interpret)
    found, without, with_triton = (
        sources.closure(kernels.softmax_entropy, **asked).digest
        for asked in ({}, {"triton": False}, {"triton": True})
    )
    assert found == (with_triton if interpret == "1" else without)
    assert with_triton != without


def test_an_experiment_depends_on_its_kernel_and_not_on_the_command_line():
    found = sources._closure("palimpsest.chapters.jscds.experiment", "train", False).modules
    needed = {
        "kernels.jensen_shannon.chunked",
        "nets.lockstep",
        "selection.rules",
        "data.labels",
        "training.classifiers",
    }
    assert {f"palimpsest.{name}" for name in needed} <= found
    assert not {"palimpsest.commands.main", "palimpsest.ledger", "palimpsest.kernels.softmax_entropy"} & found
    # Methods register themselves when they are imported, and nothing else names them.
    assert {f"palimpsest.selection.{name}" for name in ("kcenter", "herding", "moderate")} <= found


def test_whatever_runs_is_in_reach():
    """Every project function that a selection runs, as the interpreter sees it, is in the closure."""
    ran = set()

    def seen(frame, event, argument):
        if event == "call":
            ran.add((frame.f_code.co_filename, frame.f_code.co_qualname.partition(".")[0]))

    names = {str(file): name for name, file in sources.project().items()}
    sys.setprofile(seen)
    try:
        chosen()
    finally:
        sys.setprofile(None)
    walk = sources._Walk(sources.triton_runs())
    walk.look_up((__name__, ("chosen",)))
    in_reach = {
        (name, bound) for name, index in walk.reached for bound in sources.binds(walk_statement(walk, name, index))
    }
    project = {(names[file], top) for file, top in ran if file in names and not top.startswith("<")}
    assert len(project) > 20
    assert project <= in_reach


def chosen() -> list:
    generator = sources.torch.Generator().manual_seed(0)
    features = sources.torch.rand(40, 4, generator=generator)
    labels = sources.torch.arange(40) % 2
    return [selection.select(features, labels, 0.5, name) for name in ("jscds", "k_center", "herding", "moderate")]


def walk_statement(walk, name: str, index: int) -> ast.stmt:
    return sources._module(name, walk.triton).statements[index]


def test_the_project_keeps_to_what_the_closures_take_for_granted():
    """No class acts on its subclasses, no constructor on the module, and no name comes by a star."""
    for name, file in sources.project().items():
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.ImportFrom):
                assert node.names[0].name != "*", name
            if isinstance(node, ast.ClassDef):
                methods = {part.name: part for part in node.body if isinstance(part, ast.FunctionDef)}
                assert methods.keys().isdisjoint({"__init_subclass__", "__set_name__", "__class_getitem__"}), name
                for made in methods.keys() & {"__init__", "__new__", "__post_init__"}:
                    assert not [n for n in ast.walk(methods[made]) if isinstance(n, ast.Global)], name
                    stored = [n for n in ast.walk(methods[made]) if isinstance(n, ast.Attribute | ast.Subscript)]
                    roots = {ast.unparse(n).partition(".")[0] for n in stored if not isinstance(n.ctx, ast.Load)}
                    names = [n for n in ast.walk(methods[made]) if isinstance(n, ast.Name)]
                    own = {n.id for n in names if isinstance(n.ctx, ast.Store)}
                    assert {root.partition("[")[0] for root in roots} <= {"self"} | own, name


def test_a_closure_outside_the_project_begins_there():
    assert sources.closure(stranger).modules == {"reading"}
