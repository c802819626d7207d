"""`palimpsest audit`: some arms of a recorded study, computed once more."""

from typing import Annotated

import typer

from .failure import fail
from .run import EXPERIMENTS, plan_of


def audit(
    chapter: Annotated[str, typer.Argument(help="The experiment whose study is audited.")],
    arms: Annotated[int, typer.Option(help="How many stored arms to compute again.")],
    seed: Annotated[int, typer.Option(help="Draws the arms.")] = 0,
) -> None:
    """Compute stored arms again from their starts and compare them with the spread of the record.

    Exits with 1 if a number of one of them lies outside, if an arm was cut short or altered, or if the rows are not
    those of the predictions.
    """
    from palimpsest.chapters.shared import audit as audits

    if chapter not in EXPERIMENTS:
        fail(f"chapter: got {chapter!r}, want one of {sorted(EXPERIMENTS)}")
    if (plan := plan_of(chapter)) is None:
        fail(f"chapter: got {chapter!r}, whose study has no predictions to audit")
    try:
        table = audits.audit(plan, arms, seed)
    except ValueError as error:
        fail(str(error))
    typer.echo(table.to_string(index=False, float_format="{:.4g}".format, na_rep="-"))
    outside = int((~table.within.astype(bool)).sum())
    if other := set(table.source) - {plan.source}:
        commits = sorted(set(table[table.source.isin(other)].commit))
        typer.echo(f"recorded by another source, of commit {', '.join(commits)}; computed again by the present one")
    typer.echo(f"{len(table) - outside} of {len(table)} numbers lie within the recorded spread")
    if outside:
        raise typer.Exit(1)
