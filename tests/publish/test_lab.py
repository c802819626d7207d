"""JupyterLab, as `make lab` starts it: a `.py` opens with the outputs beside it, and saving keeps the pair."""

import re
import shutil

import nbformat
import pytest
from jupyter_server.services.contents.largefilemanager import LargeFileManager
from jupytext.sync_contentsmanager import build_sync_jupytext_contents_manager_class

from palimpsest.publish import gates, site
from palimpsest.runs.paths import ROOT

CHAPTER = "03_qmul"


@pytest.fixture
def room(tmp_path, monkeypatch):
    """What Lab sees of the checkout: the pairing and one chapter."""
    (tmp_path / "notebooks").mkdir()
    for name in ("jupytext.toml", f"notebooks/{CHAPTER}.py", f"notebooks/{CHAPTER}.ipynb"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    monkeypatch.setattr(gates, "NOTEBOOKS", tmp_path / "notebooks")
    return tmp_path


def lab(root):
    """The contents manager of a Lab that was started in `root`."""
    return build_sync_jupytext_contents_manager_class(LargeFileManager)(root_dir=str(root))


def opened(manager, path):
    return manager.get(path, type="notebook")["content"]


def outputs(notebook):
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def test_lab_starts_where_the_pairing_is():
    (recipe,) = re.findall(r"^\t@\$\(BIN\)/jupyter lab(.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    arguments = recipe.partition(" #")[0].split()
    assert [a for a in arguments if not a.startswith("--")] == []  # a folder would become the root
    assert (ROOT / "jupytext.toml").is_file()


def test_a_source_opens_with_the_outputs_of_its_notebook(room):
    committed = nbformat.read(room / "notebooks" / f"{CHAPTER}.ipynb", 4)
    found = outputs(opened(lab(room), f"notebooks/{CHAPTER}.py"))
    assert found == outputs(committed)
    assert sum(map(len, found)) >= gates.FEWEST_CHECKED


def test_from_the_folder_of_the_notebooks_it_would_not(room):
    assert not any(outputs(opened(lab(room / "notebooks"), f"{CHAPTER}.py")))


def test_saving_changes_neither_the_source_nor_the_pair(room):
    manager, source = lab(room), room / "notebooks" / f"{CHAPTER}.py"
    before = source.read_text("utf-8")
    notebook = opened(manager, f"notebooks/{CHAPTER}.py")
    manager.save({"type": "notebook", "format": "json", "content": notebook}, f"notebooks/{CHAPTER}.py")
    assert source.read_text("utf-8") == before
    gates.check_pairing(CHAPTER)


def test_a_change_that_is_saved_reaches_both(room):
    manager = lab(room)
    notebook = opened(manager, f"notebooks/{CHAPTER}.py")
    notebook.cells[0].source += "\n\nA note."
    manager.save({"type": "notebook", "format": "json", "content": notebook}, f"notebooks/{CHAPTER}.py")
    assert "# A note.\n" in (room / "notebooks" / f"{CHAPTER}.py").read_text("utf-8")
    gates.check_pairing(CHAPTER)


@pytest.mark.parametrize("chapter", site.chapters())
def test_no_cell_has_an_empty_list_of_tags(chapter):
    # Lab would write it into the source at the next saving.
    cells = nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", 4).cells
    assert [number for number, cell in enumerate(cells) if cell.metadata.get("tags") == []] == []
