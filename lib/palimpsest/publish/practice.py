"""A copy of the chapters to practise with: `python -m palimpsest.publish.practice` leaves the solutions out."""

import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from palimpsest.publish import site
from palimpsest.runs.paths import BUILD, ROOT

SOLUTION = re.compile(r"^(`{3,})\{solution\}.*?^\1$\n*", re.MULTILINE | re.DOTALL)
TAG = "solution"
PLACE = "# Your solution."


def without_solutions(notebook: NotebookNode) -> NotebookNode:
    """`notebook`, in place: solutions in the text are gone, and a cell of code that is one waits for the reader's."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = SOLUTION.sub("", cell.source).rstrip()
        elif TAG in cell.metadata.get("tags", []):
            cell.source, cell.outputs, cell.execution_count = PLACE, [], None
            del cell.metadata["tags"]
    return notebook


def write(folder: Path = BUILD / "practice", notebooks: Path = ROOT / "notebooks") -> list[Path]:
    """Copy the chapters into `folder`, with the outputs of `notebooks`; return what was written.

    A copy that is there already may hold a reader's work, and stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [folder / f"{chapter}.ipynb" for chapter in site.chapters()]
    new = [path for path in wanted if not path.exists()]
    for path in new:
        nbformat.write(without_solutions(nbformat.read(notebooks / path.name, 4)), path)
    return new


if __name__ == "__main__":
    written = write()
    print(f"{len(written)} chapters written to {BUILD / 'practice'}; those that were there stayed as they are")
