"""`palimpsest pages`: what the ledger renders."""

from typing import Annotated

import typer

from palimpsest.publish import pages
from palimpsest.runs import paths

from .failure import needs_checkout


def render_pages(
    readme: Annotated[bool, typer.Option(help="Also rewrite the claims table and the figure of README.md.")] = False,
) -> None:
    """Render the front page and what held from the ledger."""
    needs_checkout("pages")
    for path in pages.write():
        typer.echo(path.relative_to(paths.ROOT))
    if readme:
        pages.write_readme()
