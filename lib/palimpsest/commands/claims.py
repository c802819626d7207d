"""`palimpsest claims`: every claim with its verdict."""

import typer

from palimpsest import ledger
from palimpsest.publish import pages


def claims() -> None:
    """Print every claim with its verdict, and how many have which."""
    found = ledger.load()
    for claim in found:
        typer.echo(f"{claim.verdict:>12}  {claim.id:<20} {claim.quantity}: {pages.measured(claim)}")
    typer.echo(pages.tally(found))
