"""The copy to practise with has every exercise and no solution, and keeps what its reader wrote."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from palimpsest.publish import practice, site
from palimpsest.runs.paths import ROOT

TEXT = """```{exercise}
:label: ex-one
What is 1 + 1?
```

````{solution} ex-one
:class: dropdown
```python
1 + 1
```
Two.
````

Prose."""


WITH_EXERCISES = [
    chapter for chapter in site.chapters() if "{exercise}" in (ROOT / f"notebooks/{chapter}.py").read_text("utf-8")
]
"""All but the page for ten minutes."""


def committed(chapter):
    return nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", 4)


def test_every_chapter_of_claims_has_exercises():
    assert len(WITH_EXERCISES) == len(site.chapters()) - 1


def test_solutions_go_and_the_rest_stays():
    output = new_output("stream", name="stdout", text="2\n")
    solved = new_code_cell("print(1 + 1)", metadata={"tags": ["solution", "hide-cell"]}, outputs=[output])
    other = new_code_cell("a = 1", metadata={"tags": ["hide-input"]}, outputs=[output])
    made = practice.without_solutions(new_notebook(cells=[new_markdown_cell(TEXT), solved, other]))
    text, place, rest = made.cells
    assert text.source == TEXT.partition("````")[0] + "Prose."
    assert (place.source, place.outputs, place.metadata) == (practice.PLACE, [], {})
    assert (rest.source, rest.outputs) == ("a = 1", [output])


@pytest.mark.parametrize("chapter", WITH_EXERCISES)
def test_every_chapter_keeps_its_exercises_alone(chapter):
    cells = committed(chapter).cells
    before = "\n".join(cell.source for cell in cells)
    after = "\n".join(cell.source for cell in practice.without_solutions(committed(chapter)).cells)
    assert after.count("{exercise}") == before.count("{exercise}") > 0
    assert "{solution}" in before
    assert "{solution}" not in after
    solved = any("solution" in cell.metadata.get("tags", []) for cell in cells)  # else in words alone
    assert (practice.PLACE in after) == solved


def test_what_a_reader_wrote_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(site, "chapters", lambda: ["03_qmul"])
    (written,) = practice.write(tmp_path)
    assert nbformat.read(written, 4).cells
    written.write_text("mine")
    assert practice.write(tmp_path) == []
    assert written.read_text() == "mine"
