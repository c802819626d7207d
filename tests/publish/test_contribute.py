"""The guide's table of changes names places that are there, and its examples do what they say."""

import re
import sys
from types import ModuleType

import jupytext
import pytest
import torch

from palimpsest import arithmetic, chapters, kernels, ledger
from palimpsest.data import manifest
from palimpsest.kernels.tolerances import admitted_error
from palimpsest.publish import gates
from palimpsest.runs import paths
from palimpsest.unlearning import vision
from palimpsest.unlearning.vision import unlearn

GUIDE = (paths.ROOT / "book" / "contribute.md").read_text("utf-8")
PLACE = re.compile(r"`((?:lib|data|book|notebooks)/[\w./-]+)`")
NEW = {"notebooks/07_slug.py"}
"""What the reader is to make."""
EXAMPLES = dict(re.findall(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL))
"""The code of the guide, by the file that it would be."""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The examples as files of folders that the packages look into as well; modules are forgotten afterwards."""
    before = set(sys.modules)
    for package in (vision, kernels, chapters):
        folder = tmp_path / package.__name__.replace(".", "/")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    for name, text in EXAMPLES.items():
        path = tmp_path / name.removeprefix("lib/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(paths, "DATA", tmp_path / "data")
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(ledger, "FRESH", tmp_path / "fresh")
    manifest.update(["claims/toy.yaml"])
    yield tmp_path
    for name in set(sys.modules) - before:
        parent, _, own = name.rpartition(".")
        if vars(sys.modules.get(parent, ModuleType("none"))).get(own) is sys.modules[name]:
            delattr(sys.modules[parent], own)
        del sys.modules[name]


def test_it_lists_ten_changes():
    rows = [line for line in GUIDE.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 10  # the head is one more


def test_every_place_is_there():
    places = set(PLACE.findall(GUIDE)) - NEW
    assert len(places) >= 10
    assert [place for place in sorted(places) if not (paths.ROOT / place).exists()] == []


def test_examples_are_short():
    assert len(EXAMPLES) == GUIDE.count("\n```\n") == 6
    assert {name: text.count("\n") for name, text in EXAMPLES.items() if text.count("\n") >= 20} == {}


def test_the_method_makes_the_step_of_its_formula(written):
    from palimpsest.unlearning.vision.flatten import Flatten

    model = torch.nn.Linear(2, 3, bias=False).double()
    x, y = torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 1.0], [1.0, 1.0]]).double(), torch.tensor([0, 1, 2, 0])
    before = model.weight.detach().clone()
    settings = {"lr": 0.1, "epochs": 1, "batch_size": 2, "momentum": 0.0, "weight_decay": 0.0}
    unlearn([model], x[None], y[None], torch.tensor([[0, 1]]), Flatten(), **settings)
    # The mean over 2 samples and 3 classes of (W x)^2 has the gradient 1/3 of the sum of (W x) x^T.
    gradient = sum(torch.outer(before @ sample, sample) for sample in x[:2]) / 3
    torch.testing.assert_close(before - model.weight.detach(), 0.1 * gradient)


def test_the_kernel_agrees_with_its_definition_and_refuses_what_is_no_matrix(written):
    from palimpsest.kernels.row_norm import row_norm

    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [5.0, 12.0]])
    exact = torch.tensor([5.0, 0.0, 13.0])
    for backend, ran in ((None, "torch-norm"), ("reference", "reference")):
        found = row_norm(x, backend)
        assert kernels.last_backend() == f"row_norm: {ran}"
        assert ((found - exact).abs() <= admitted_error(x.dtype, 2, exact)).all()
    with pytest.raises(ValueError, match=r"x: got shape \[2\], want \[N, D\]"):
        row_norm(x[0])


def test_the_claim_is_judged_by_its_entry(written):
    from palimpsest.chapters.toy.claims import judgements

    assert judgements({"new": [7, 8, 6, 7], "old": [12, 13, 12, 11]})["toy-faster"].verdict == "supported"
    assert judgements({"new": [12, 13, 12, 11], "old": [7, 8, 6, 7]})["toy-faster"].verdict == "contradicted"


def test_the_chapter_prints_the_verdict_in_the_cell_that_the_claim_names(written, capsys):
    arithmetic.pin()
    notebook = jupytext.reads(EXAMPLES["notebooks/06_toy.py"], "py:percent")
    code, room = [cell for cell in notebook.cells if cell.cell_type == "code"], {}
    for cell in code:
        exec(cell.source, room)
    (claim,) = ledger.load()
    assert f"06_toy#{code[-1].metadata['tags'][0]}" == claim.cell
    assert gates.CHECKED in code[-1].metadata["tags"]
    assert "parameters" in code[0].metadata["tags"]
    assert "supported" in capsys.readouterr().out
