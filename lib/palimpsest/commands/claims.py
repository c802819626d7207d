"""`palimpsest claims`: every claim with its verdict."""

import typer

from palimpsest import findings, ledger
from palimpsest.runs import paths

from .failure import fail


def claims() -> None:
    """Print every claim with its verdict, and how many have which."""
    try:
        found = ledger.load()
    except ValueError as error:
        fail(str(error))
    if not found:
        fail(f"{paths.DATA / 'claims'} holds no claims; PALIMPSEST_DATA, if set, must name the data/ of a checkout")
    for claim in found:
        typer.echo(f"{claim.verdict:>12}  {claim.id:<20} {claim.quantity}: {findings.measured(claim)}")
    typer.echo(findings.tally(found))
