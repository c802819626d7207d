"""Build the book from executed notebooks, and check what was built.

`build` stages `book/`, the executed notebooks and the generated pages into one folder, runs jupyter-book with
warnings as errors, finishes what that wrote, and swaps the site into place. The same inputs give the same bytes.
`check` reads the finished site and lists what a reader would stumble over.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml

from palimpsest.publish import pages
from palimpsest.publish.finish import finish
from palimpsest.publish.sitecheck import check
from palimpsest.runs.paths import BUILD, ROOT

BOOK = ROOT / "book"
GENERATED = (*pages.FILLED, "claims.csv")
"""What `palimpsest pages` renders from the ledger."""


def chapters() -> list[str]:
    """Names of the chapters in `book/_toc.yml`, such as `04_jscds`, in reading order."""
    return [Path(name).name for name in in_order() if name.startswith("notebooks/")]


def in_order() -> list[str]:
    """All pages of the book in reading order, as `book/_toc.yml` names them."""
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *(entry["file"] for part in toc["parts"] for entry in part["chapters"])]


def build(build_dir: Path = BUILD) -> Path:
    """Build the site into `build_dir/html` and return the path of its `index.html`.

    Reads `build_dir/executed/NN_slug.ipynb` and `build_dir/generated/*.md`. The old site stays in place until
    the new one is whole.

    Raises `FileNotFoundError` naming the chapter or page that is missing, and `RuntimeError` when
    jupyter-book warns or fails, or when `check` finds something.
    """
    source, work = build_dir / "book_src", build_dir / "site.tmp"
    _stage(build_dir, source)
    shutil.rmtree(work, ignore_errors=True)
    command = [Path(sys.executable).with_name("jupyter-book"), "build", source, "--path-output", work]
    # A fixed hash seed keeps the order of everything that Sphinx takes out of a set.
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run([*command, "-W", "--keep-going", "-q"], env=environment, stdout=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError("jupyter-book did not build the site; each warning above counts as an error")
    html = work / "_build" / "html"
    finish(html, source)
    findings = check(html)
    if findings:
        raise RuntimeError("the built site fails its check:\n" + "\n".join(f"  {line}" for line in findings))
    _swap(html, build_dir / "html")
    shutil.rmtree(work)
    return build_dir / "html" / "index.html"


def _stage(build_dir: Path, source: Path) -> None:
    """Lay out the sources of the site afresh in `source`."""
    notebooks = {name: build_dir / "executed" / f"{name}.ipynb" for name in chapters()}
    generated = {name: build_dir / "generated" / name for name in GENERATED}
    for name, path in notebooks.items():
        if not path.is_file():
            raise FileNotFoundError(
                f"chapter {name} was not executed: {path} is missing; run `make chapter CH={name[:2]}`"
            )
    for name, path in generated.items():
        if not path.is_file():
            raise FileNotFoundError(
                f"page {name} was not rendered from the ledger: {path} is missing; run `palimpsest pages`"
            )
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(BOOK, source)
    for name, path in generated.items():
        shutil.copyfile(path, source / name)
    (source / "notebooks").mkdir()
    for path in notebooks.values():
        notebook = nbformat.read(path, as_version=4)
        # papermill's record of when a cell ran would make two sites of the same results differ.
        for part in (notebook, *notebook.cells):
            part.metadata.pop("papermill", None)
            part.metadata.pop("execution", None)
        nbformat.write(notebook, source / "notebooks" / path.name)


def _swap(new: Path, target: Path) -> None:
    """Put folder `new` in the place of folder `target`."""
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)
