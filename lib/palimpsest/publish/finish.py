"""The last step of the site's build: what Sphinx wrote is made fit to be found, used and fetched."""

from pathlib import Path

import nbformat
from bs4 import BeautifulSoup

from palimpsest.publish import access, heads, vector, weight
from palimpsest.publish.formulas import Typesetter
from palimpsest.runs.paths import ROOT


def finish(html_dir: Path, source: Path) -> None:
    """Rewrite the site in `html_dir`, in place; it was built from `source`. The same site gives the same bytes.

    Raises `RuntimeError` naming the formulas that KaTeX cannot read.
    """
    book = heads.read(ROOT)
    if not book.base:
        print("[site] CITATION.cff names no url, so the pages name no canonical address and there is no site map")
    weight.clear(html_dir)
    katex = Typesetter(html_dir / "_static" / "katex.min.js")
    problems = []
    for path in sorted(html_dir.rglob("*.html")):
        name = path.relative_to(html_dir).as_posix()
        page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        heads.describe(page, name, heads.cited(_text(source / name)), book)
        problems += [f"  {name}: {line}" for line in katex.typeset(page)]
        access.open_up(page)
        weight.lighten_page(page)
        path.write_text(str(page), encoding="utf-8")
    if problems:
        raise RuntimeError("\n".join(["formulas cannot be set:", *problems]))
    heads.draw_card(html_dir / heads.CARD, book)
    if book.base:
        heads.write_site_map(html_dir, book)
    for path in sorted(html_dir.glob("_images/*.svg")):
        drawn = path.read_text(encoding="utf-8")
        if "Matplotlib" in drawn:
            path.write_text(vector.shorten(drawn), encoding="utf-8")
    weight.lighten_site(html_dir)


def _text(page: Path) -> str:
    """What a page says in MyST; nothing for the pages that Sphinx makes itself."""
    if page.with_suffix(".md").exists():
        return page.with_suffix(".md").read_text(encoding="utf-8")
    if page.with_suffix(".ipynb").exists():
        cells = nbformat.read(page.with_suffix(".ipynb"), as_version=4).cells
        return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return ""
