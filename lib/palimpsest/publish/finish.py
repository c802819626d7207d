"""The last step of the site's build: what Sphinx wrote is made fit to be found, used and fetched."""

from pathlib import Path

from bs4 import BeautifulSoup

from palimpsest.publish import vector, weight
from palimpsest.publish.formulas import Typesetter


def finish(html_dir: Path) -> None:
    """Rewrite the site in `html_dir`, in place. The same site gives the same bytes.

    Raises `RuntimeError` naming the formulas that KaTeX cannot read.
    """
    katex = Typesetter(html_dir / "_static" / "katex.min.js")
    problems = []
    for path in sorted(html_dir.rglob("*.html")):
        page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        problems += [f"  {path.relative_to(html_dir)}: {line}" for line in katex.typeset(page)]
        weight.lighten_page(page)
        path.write_text(str(page), encoding="utf-8")
    if problems:
        raise RuntimeError("\n".join(["formulas cannot be set:", *problems]))
    for path in sorted(html_dir.glob("_images/*.svg")):
        drawn = path.read_text(encoding="utf-8")
        if "Matplotlib" in drawn:
            path.write_text(vector.shorten(drawn), encoding="utf-8")
    weight.lighten_site(html_dir)
