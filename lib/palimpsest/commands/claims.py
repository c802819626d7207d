"""`palimpsest claims`: every claim with its verdict; accepting what was measured."""

from typing import Annotated

import typer

from palimpsest import ledger
from palimpsest.publish import pages
from palimpsest.runs import paths

from .failure import fail, needs_checkout


def claims(
    accept: Annotated[bool, typer.Option(help="Make the last measured values the accepted ones.")] = False,
) -> None:
    """Print every claim with its verdict."""
    if accept:
        needs_checkout("claims --accept")
        seconds = {
            file.stem.partition("_")[2]: float(file.read_text())
            for file in (paths.BUILD / "executed").glob("*.seconds")
        }
        for path in ledger.accept(seconds):
            typer.echo(f"accepted {path.relative_to(paths.ROOT)}")
    try:
        found = ledger.load()
    except ValueError as error:
        fail(str(error))
    if not found:
        fail(f"{paths.DATA / 'claims'} holds no claims; PALIMPSEST_DATA, if set, must name the data/ of a checkout")
    for claim in found:
        typer.echo(f"{claim.verdict:>15}  {claim.id:<20} {claim.measure}: {pages.measured(claim)}")
