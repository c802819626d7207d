"""The notebook gates, each shown to turn red."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from palimpsest import ledger
from palimpsest.publish import gates, pages, site

SOURCE = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Toy

# %% tags=["parameters"]
profile = "ci"

# %% tags=["claim-first", "nbval-check-output"]
print(profile)
"""


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A notebooks folder with one chapter, `01_toy`, and its committed `.ipynb`."""
    monkeypatch.setattr(gates, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(site, "chapters", lambda: ["01_toy"])
    (tmp_path / "01_toy.py").write_text(SOURCE)
    return tmp_path


def executed(room, **changes):
    """The chapter as papermill would leave it."""
    notebook = gates.source_of("01_toy")
    for count, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
        cell.execution_count = count
    notebook.cells[-1].outputs = [new_output("stream", name="stdout", text="ci\n")]
    notebook.metadata["palimpsest"] = {"source_sha256": gates.source_digest(gates.source_of("01_toy"))}
    path = room / "01_toy.ipynb"
    nbformat.write(notebook, path)
    return path


def test_equal_sources_pass_and_a_changed_one_is_named(room):
    executed(room)
    gates.check_pairing("01_toy")
    (room / "01_toy.py").write_text(SOURCE.replace("# # Toy", "# # Toys"))
    with pytest.raises(gates.GateError, match=r"01_toy: \.py and \.ipynb differ"):
        gates.check_pairing("01_toy")


def test_a_missing_notebook_is_named(room):
    with pytest.raises(gates.GateError, match=r"01_toy\.ipynb is missing"):
        gates.check_pairing("01_toy")


def test_an_executed_notebook_passes(room):
    gates.check_executed(executed(room), gates.source_of("01_toy"))


def test_a_cell_that_never_ran_is_found(room):
    path = executed(room)
    notebook = nbformat.read(path, 4)
    notebook.cells[-1].execution_count = None
    nbformat.write(notebook, path)
    with pytest.raises(gates.GateError, match="code cell 2 was never executed"):
        gates.check_executed(path, gates.source_of("01_toy"))


def test_outputs_of_another_source_are_found(room):
    path = executed(room)
    (room / "01_toy.py").write_text(SOURCE.replace("print(profile)", "print(profile, 1)"))
    with pytest.raises(gates.GateError, match="executed from another source"):
        gates.check_executed(path, gates.source_of("01_toy"))


def test_nbval_may_not_pass_on_too_few_or_empty_cells(room):
    executed(room)
    with pytest.raises(gates.GateError, match="1 of 1 cells tagged nbval-check-output have outputs"):
        gates.check_outputs(["01_toy"])


def test_orphans_are_found_both_ways(room, monkeypatch):
    class Claim:
        id, cell = "toy-second", "01_toy#claim-second"

    monkeypatch.setattr(ledger, "load", lambda: [Claim])
    assert gates.orphans() == [
        "toy-second: no cell is tagged 01_toy#claim-second",
        "01_toy#claim-first: no claim names this cell",
    ]


def test_an_unknown_parameter_is_named(room, tmp_path):
    with pytest.raises(gates.GateError, match=r"01_toy has no parameter 'profil'; it has \['profile'\]"):
        gates.execute("01_toy", {"profil": "smoke"}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_digest_sees_sources_and_kinds_alone():
    one = new_notebook(cells=[new_code_cell("a"), new_markdown_cell("b")])
    other = new_notebook(cells=[new_code_cell("a", execution_count=3), new_markdown_cell("b")])
    assert gates.source_digest(one) == gates.source_digest(other)
    assert gates.source_digest(one) != gates.source_digest(new_notebook(cells=[new_markdown_cell("a\nb")]))


def test_reading_a_chapter_twice_gives_the_same_identifiers(room):
    assert gates.source_of("01_toy") == gates.source_of("01_toy")


@pytest.mark.slow
def test_papermill_runs_a_chapter_and_leaves_no_trace_of_time(room, tmp_path):
    path = gates.execute("01_toy", {"profile": "smoke"}, tmp_path / "out")
    notebook = nbformat.read(path, 4)
    assert notebook.cells[-1].outputs[0].text == "smoke\n"
    assert "papermill" not in path.read_text()
    assert [f.name for f in path.parent.iterdir()] == ["01_toy.ipynb"]


@pytest.mark.slow
def test_what_a_cell_prints_is_one_output_however_the_kernel_cuts_it(room, tmp_path):
    (room / "01_toy.py").write_text(SOURCE.replace("print(profile)", "print(1, flush=True)\nprint(2, flush=True)"))
    notebook = nbformat.read(gates.execute("01_toy", folder=tmp_path / "out"), 4)
    assert [output.text for output in notebook.cells[-1].outputs] == ["1\n2\n"]


@pytest.mark.slow
def test_a_failing_cell_is_named_and_leaves_nothing(room, tmp_path):
    (room / "01_toy.py").write_text(SOURCE.replace("print(profile)", "1 / 0"))
    with pytest.raises(gates.GateError, match="ZeroDivisionError"):
        gates.execute("01_toy", folder=tmp_path / "out")
    assert not (tmp_path / "out" / "01_toy.ipynb").exists()


def test_quick_tries_chapters_and_leaves_the_committed_book_with_its_page_of_one_size(room, tmp_path, monkeypatch):
    (room / "01_toy.ipynb").write_text("committed")
    (room / "09_page.py").write_text(SOURCE.replace("profile", "seed"))
    monkeypatch.setattr(site, "chapters", lambda: ["09_page", "01_toy"])
    monkeypatch.setattr(gates, "QUICK", tmp_path / "quick")
    ran, written = {}, []

    def execute(chapter, parameters=None, folder=gates.EXECUTED):
        ran[chapter] = parameters
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{chapter}.ipynb").write_text("computed")
        return folder / f"{chapter}.ipynb"

    monkeypatch.setattr(gates, "execute", execute)
    monkeypatch.setattr(gates.paths, "BUILD", tmp_path)
    monkeypatch.setattr(pages, "write", lambda *arguments: written.append(arguments))
    monkeypatch.setattr(site, "build", lambda folder: folder / "html" / "index.html")
    assert gates.quick() == tmp_path / "quick" / "html" / "notebooks" / "09_page.html"
    assert ran == {"01_toy": {"profile": "smoke"}, "09_page": None}
    assert written == [(None, tmp_path / "quick")]
    shown = {path.stem: path.read_text() for path in (tmp_path / "quick" / "executed").iterdir()}
    assert shown == {"01_toy": "committed", "09_page": "computed"}


def test_an_unknown_gate_is_refused():
    with pytest.raises(gates.GateError, match="arguments: got"):
        gates.main(["unitt"])


def test_an_unknown_chapter_is_refused(room):
    with pytest.raises(gates.GateError, match="CH: got '09'"):
        gates.refresh("09")
