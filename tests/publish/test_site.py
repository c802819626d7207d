"""Building the site: what is missing is named, and the same inputs give the same bytes."""

import os
import shutil

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from palimpsest.publish import site


@pytest.fixture
def inputs(tmp_path, tmp_path_factory, monkeypatch):
    """A build folder in which each chapter is one formula and one printed line."""
    # The process that builds compiles no grammar of URIs either: as in conftest.py.
    without = tmp_path_factory.mktemp("without")
    (without / "rfc3987_syntax.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(without), prepend=os.pathsep)
    executed, generated = tmp_path / "executed", tmp_path / "generated"
    executed.mkdir()
    generated.mkdir()
    for name in site.chapters():
        printed = new_output("stream", name="stdout", text="printed\n")
        cells = [
            new_markdown_cell(f"# Chapter {name}\n\n{{cite:p}}`lin1991divergence`\n\n$$J \\le \\ln 2$$ (eq-{name})"),
            new_code_cell("print('printed')", execution_count=1, outputs=[printed]),
        ]
        metadata = {"language_info": {"name": "python"}, "papermill": {"start_time": "now"}}
        notebook = new_notebook(cells=cells, metadata=metadata)
        nbformat.write(notebook, executed / f"{name}.ipynb")
    for name in site.GENERATED:
        (generated / name).write_text(
            f"# {name}\n\n| claim | verdict |\n|---|---|\n| a | not run |\n", encoding="utf-8"
        )
    return tmp_path


def test_a_missing_chapter_is_named(inputs):
    name = site.chapters()[0]
    (inputs / "executed" / f"{name}.ipynb").unlink()
    with pytest.raises(FileNotFoundError, match=f"chapter {name} was not executed"):
        site.build(inputs)
    assert not (inputs / "book_src").exists()


def test_a_missing_page_is_named(inputs):
    (inputs / "generated" / "what_held.md").unlink()
    with pytest.raises(FileNotFoundError, match=r"what_held\.md was not rendered"):
        site.build(inputs)


def _content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_two_builds_are_the_same_bytes(inputs, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(inputs, elsewhere, dirs_exist_ok=True)
    index = site.build(inputs)
    first = _content(index.parent)
    assert index.name == "index.html"
    assert f"notebooks/{site.chapters()[0]}.html" in {path.as_posix() for path in first}
    assert b"start_time" not in b"".join(first.values())
    assert _content(site.build(elsewhere).parent) == first
    assert sorted(path.name for path in inputs.iterdir()) == ["book_src", "executed", "generated", "html"]


@pytest.mark.slow
def test_a_warning_is_an_error_and_the_old_site_stays(inputs, capfd):
    (inputs / "html").mkdir()
    (inputs / "html" / "index.html").write_text("the old site", encoding="utf-8")
    (inputs / "generated" / "what_held.md").write_text("# What held\n\n{doc}`nowhere`\n", encoding="utf-8")
    with pytest.raises(RuntimeError, match="jupyter-book did not build"):
        site.build(inputs)
    assert "nowhere" in capfd.readouterr().err
    assert (inputs / "html" / "index.html").read_text(encoding="utf-8") == "the old site"
