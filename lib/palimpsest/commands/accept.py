"""`palimpsest accept`: making measured values the accepted ones."""

from typing import Annotated

import typer

from .failure import fail, needs_checkout


def accept(
    papers: Annotated[list[str], typer.Argument(help="Whose values: sau, oeu, qmul, jscds, sage, neighbours.")],
) -> None:
    """Execute the chapters of PAPERS, accept what they measure, execute again, render, and print what moved."""
    needs_checkout("accept")
    from palimpsest.publish import acceptance, gates  # jupyter takes seconds to import

    try:
        lines = acceptance.accept(papers)
    except (ValueError, gates.GateError) as error:
        fail(str(error))
    typer.echo("\n".join(lines) or "nothing moved")
