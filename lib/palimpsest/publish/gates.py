"""The gates between a change and a reader: `python -m palimpsest.publish.gates` runs them all, in order.

    unit [--fast]   the tests that need no notebook
    execute         every chapter through papermill into `_build/executed/`
    check           the executed and the committed notebooks, nbval, and the ledger
    site            the book, from what was executed
    chapter NN      execute one chapter and put its outputs beside its source
    quick           the book as committed, with its page of one size computed now; then every chapter at profile smoke

Without an argument: unit, execute from an empty cache, check, pages, site.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jupytext
import nbformat
import papermill
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat import NotebookNode

from palimpsest import arithmetic, ledger
from palimpsest.data import manifest
from palimpsest.publish import kernel, pages, site
from palimpsest.runs import paths
from palimpsest.runs.files import write_atomic

NOTEBOOKS = paths.ROOT / "notebooks"
EXECUTED, QUICK = paths.BUILD / "executed", paths.BUILD / "quick"
CHECKED, FEWEST_CHECKED = "nbval-check-output", 4
CLAIM_TAG = re.compile(r"claim-(.+)")


class GateError(RuntimeError):
    """A gate is red; the message says which file and why."""


def source_digest(notebook: NotebookNode) -> str:
    """sha256 over the kind and source of every cell; outputs and metadata do not count."""
    cells = [[cell.cell_type, cell.source] for cell in notebook.cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def source_of(chapter: str) -> NotebookNode:
    path = NOTEBOOKS / f"{chapter}.py"
    if not path.exists():
        raise GateError(f"{path.relative_to(paths.ROOT)} is missing; book/_toc.yml names it")
    notebook = jupytext.read(path)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # jupytext draws identifiers at random, and two runs would differ
    return notebook


def check_pairing(chapter: str) -> None:
    """Gate 1: the `.py` and the committed `.ipynb` hold the same cells."""
    committed = NOTEBOOKS / f"{chapter}.ipynb"
    if not committed.exists():
        raise GateError(f"{committed.name} is missing; run `make chapter CH={chapter[:2]}`")
    if source_digest(nbformat.read(committed, 4)) != source_digest(source_of(chapter)):
        raise GateError(f"{chapter}: .py and .ipynb differ; run `make chapter CH={chapter[:2]}`")


@contextmanager
def _progress() -> Iterator[None]:
    """Show on this terminal the progress bars of the processes started meanwhile."""
    file = paths.BUILD / "progress.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("")
    done = threading.Event()

    def copy() -> None:
        with file.open() as stream:
            while not done.wait(0.5):
                # A log wants one line per change; a terminal redraws its line.
                text = stream.read()
                sys.stderr.write(
                    text if sys.stderr.isatty() else text.rpartition("\r")[2].strip() + "\n" if text else ""
                )
                sys.stderr.flush()

    thread = threading.Thread(target=copy)
    thread.start()
    os.environ["PALIMPSEST_PROGRESS"] = str(file)
    try:
        yield
    finally:
        del os.environ["PALIMPSEST_PROGRESS"]
        done.set()
        thread.join()


def execute(chapter: str, parameters: dict | None = None, folder: Path = EXECUTED, cold: bool = False) -> Path:
    """Gate 2: run one chapter through papermill. The old result stays until the new one is whole.

    The seconds of a `cold` run, which found nothing in the cache, are what the page What held reports.
    """
    kernel.require()
    notebook = source_of(chapter)
    known = parameters_of(notebook)
    for name in parameters or {}:
        if name not in known:
            raise GateError(f"{chapter} has no parameter {name!r}; it has {sorted(known)}")
    digest = source_digest(notebook)
    folder.mkdir(parents=True, exist_ok=True)
    given, made = folder / f".{chapter}.source.ipynb", folder / f".{chapter}.executed.ipynb"
    nbformat.write(notebook, given)
    print(f"[gates] executing {chapter}", file=sys.stderr, flush=True)
    start = time.perf_counter()
    try:
        with _progress():
            papermill.execute_notebook(
                given, made, parameters, cwd=NOTEBOOKS, kernel_name=kernel.NAME, progress_bar=False
            )
    except papermill.PapermillExecutionError as error:
        raise GateError(f"{chapter}: cell {error.cell_index} failed: {error.ename}: {error.evalue}") from error
    executed = nbformat.read(made, 4)
    CoalesceStreamsPreprocessor().preprocess(executed, {})  # the kernel cuts what is printed by the clock
    for part in (executed, *executed.cells):
        # When a cell ran differs from run to run; JupyterLab would write papermill's empty tags into the `.py`.
        for record in ("papermill", "execution", "jupytext", *(["tags"] if part.metadata.get("tags") == [] else [])):
            part.metadata.pop(record, None)
    executed.metadata["palimpsest"] = {"source_sha256": digest}
    path = folder / f"{chapter}.ipynb"
    write_atomic(path, lambda file: nbformat.write(executed, file))
    given.unlink()
    made.unlink()
    seconds = time.perf_counter() - start
    if cold:
        write_atomic(folder / f"{chapter}.seconds", lambda file: Path(file).write_text(f"{seconds:.1f}"))
    print(f"[gates] {chapter}: {seconds:.0f} s", file=sys.stderr, flush=True)
    return path


def parameters_of(notebook: NotebookNode) -> set[str]:
    """What papermill can set. A page that judges no claim has one size, and so no `profile`."""
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    return {name for cell in cells for name in re.findall(r"^(\w+)\s*=", cell.source, flags=re.MULTILINE)}


def check_executed(path: Path, source: NotebookNode) -> None:
    """Gate 3: every code cell of `path` ran, without error, and what ran is `source`."""
    notebook = nbformat.read(path, 4)
    recorded = notebook.metadata.get("palimpsest", {}).get("source_sha256")
    if recorded != source_digest(source) or source_digest(notebook) != recorded:
        raise GateError(f"{path}: was executed from another source; run `make chapter CH={path.name[:2]}`")
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and cell.source.strip() and not cell.execution_count:
            raise GateError(f"{path}: code cell {number} was never executed")


def check_outputs(chapters: list[str]) -> None:
    """Gate 4: nbval runs the committed notebooks again, two at a time, and compares the tagged cells.

    nbval passes over a notebook without tagged or executed cells, so those are counted first.
    """
    kernel.require()
    notebooks = [NOTEBOOKS / f"{chapter}.ipynb" for chapter in chapters]
    for path in notebooks:
        cells = [c for c in nbformat.read(path, 4).cells if CHECKED in c.metadata.get("tags", [])]
        full = [c for c in cells if c.outputs]
        if len(full) < FEWEST_CHECKED or len(full) < len(cells):
            raise GateError(
                f"{path.name}: {len(full)} of {len(cells)} cells tagged {CHECKED} have outputs; "
                f"all must, and at least {FEWEST_CHECKED}"
            )
    _pytest("--nbval-lax", "--nbval-cell-timeout=1800", "-n", "2", "--dist", "loadscope", *map(str, notebooks))


def check_ledger() -> None:
    """Gate 5: fresh results agree with the accepted ones; claims and cells name each other."""
    problems = [*ledger.regressions(), *orphans()]
    readme = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    if pages.readme_with_table(readme) != readme:
        problems.append("README.md: its claims table is not the ledger's; run `palimpsest pages --readme`")
    figure = paths.ROOT / "book" / "_static" / pages.README_FIGURE[-1]
    if not figure.exists() or figure.read_text(encoding="utf-8") != pages.readme_figure():
        problems.append(f"{figure.name}: is not the committed notebook's figure; run `palimpsest pages --readme`")
    if problems:
        raise GateError("the ledger is red:\n" + "\n".join(f"  {problem}" for problem in problems))


def orphans() -> list[str]:
    """Claims that no cell prints, and cells tagged `claim-…` that belong to no claim."""
    claimed = {claim.cell: claim.id for claim in ledger.load()}
    tagged = {
        f"{chapter}#{tag}"
        for chapter in site.chapters()
        for cell in source_of(chapter).cells
        for tag in cell.metadata.get("tags", [])
        if CLAIM_TAG.fullmatch(tag)
    }
    return [
        *(f"{claimed[cell]}: no cell is tagged {cell}" for cell in sorted(claimed.keys() - tagged)),
        *(f"{cell}: no claim names this cell" for cell in sorted(tagged - claimed.keys())),
    ]


def _pytest(*arguments: str) -> None:
    if subprocess.run([sys.executable, "-m", "pytest", "-q", *arguments], cwd=paths.ROOT, check=False).returncode:
        raise GateError(f"pytest {' '.join(arguments)} failed")


def unit(fast: bool = False) -> None:
    """The tests that need no executed notebook, and the style of the sources."""
    manifest.check()
    for command in (["check"], ["format", "--check"]):
        if subprocess.run([sys.executable, "-m", "ruff", *command, "-q", str(paths.ROOT)], check=False).returncode:
            raise GateError(f"ruff {' '.join(command)} found something")
    # nbval would be loaded by each process, and with it what reads and runs notebooks.
    _pytest("tests", "-n", "2", "-p", "no:nbval", *(["-m", "not slow"] if fast else []))


def check() -> None:
    """Gates 1 and 3 to 5 on what `execute` left."""
    chapters = site.chapters()
    for chapter in chapters:
        check_pairing(chapter)
        for path in (EXECUTED / f"{chapter}.ipynb", NOTEBOOKS / f"{chapter}.ipynb"):
            check_executed(path, source_of(chapter))
    check_outputs(chapters)
    check_ledger()


def refresh(number: str) -> None:
    """Execute the chapter whose name begins with `number`, and put the result beside its source."""
    found = [chapter for chapter in site.chapters() if chapter.startswith(number)]
    if len(found) != 1:
        raise GateError(f"CH: got {number!r}, want the number of one of {site.chapters()}")
    shutil.copyfile(execute(found[0]), NOTEBOOKS / f"{found[0]}.ipynb")
    for problem in ledger.regressions():
        print(f"[gates] {problem} (`palimpsest accept` accepts it)", file=sys.stderr)


def quick() -> Path:
    """Build the book to read, and run every chapter at profile smoke to see that it runs. Returns where to begin.

    The book's chapters are as committed and its numbers the accepted ones. A page of one size is computed now, and it
    is where to begin.
    """
    shutil.rmtree(QUICK, ignore_errors=True)
    (QUICK / "executed").mkdir(parents=True)
    chapters = site.chapters()
    profiled = [chapter for chapter in chapters if "profile" in parameters_of(source_of(chapter))]
    for chapter in profiled:
        shutil.copyfile(NOTEBOOKS / f"{chapter}.ipynb", QUICK / "executed" / f"{chapter}.ipynb")
    first, *_ = [execute(chapter, folder=QUICK / "executed") for chapter in chapters if chapter not in profiled]
    pages.write(None, QUICK)
    page = site.build(QUICK).parent / "notebooks" / f"{first.stem}.html"
    print(f"[gates] {page} can be read; trying every chapter meanwhile", file=sys.stderr, flush=True)
    for chapter in profiled:
        execute(chapter, {"profile": "smoke"}, paths.BUILD / "smoke")
    return page


def main(arguments: list[str]) -> None:
    arithmetic.pin()  # for the kernels and tests that are started from here
    match arguments:
        case []:
            # A cache of its own, emptied first: what is checked was computed now.
            cold = paths.BUILD / "cold"
            shutil.rmtree(cold, ignore_errors=True)
            os.environ["PALIMPSEST_CACHE"] = str(cold)
            unit()
            for chapter in site.chapters():
                check_pairing(chapter)
                execute(chapter, cold=True)
            check()
            pages.write()
            print(site.build())
        case ["unit"]:
            unit()
        case ["unit", "--fast"]:
            unit(fast=True)
        case ["execute"]:
            for chapter in site.chapters():
                execute(chapter)
        case ["check"]:
            check()
        case ["site"]:
            print(site.build())
        case ["chapter", number]:
            refresh(number)
        case ["quick"]:
            print(f"to read: {quick()}")
        case _:
            raise GateError(f"arguments: got {arguments}; see the head of this file")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (GateError, ValueError, FileNotFoundError, RuntimeError) as error:
        sys.exit(f"[gates] {error}")
