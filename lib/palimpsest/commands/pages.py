"""`palimpsest pages`: what the ledger renders."""

from pathlib import Path
from typing import Annotated

import typer

from palimpsest.publish import pages
from palimpsest.runs import paths
from palimpsest.runs.files import write_atomic

from .failure import needs_checkout


def render_pages(
    readme: Annotated[bool, typer.Option(help="Also rewrite the claims table and the figure of README.md.")] = False,
) -> None:
    """Render the results and status pages from the ledger."""
    needs_checkout("pages")
    for path in pages.write():
        typer.echo(path.relative_to(paths.ROOT))
    if readme:
        file = paths.ROOT / "README.md"
        text = pages.readme_with_table(file.read_text(encoding="utf-8"))
        write_atomic(file, lambda path: Path(path).write_text(text, encoding="utf-8"))
        figure = paths.ROOT / "book" / "_static" / pages.README_FIGURE[-1]
        write_atomic(figure, lambda path: Path(path).write_text(pages.readme_figure(), encoding="utf-8"))
