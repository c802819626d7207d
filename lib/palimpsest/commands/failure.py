"""How a subcommand says that it cannot go on, or not here."""

from typing import NoReturn

import typer

from palimpsest.runs import paths


def fail(message: str, code: int = 1) -> NoReturn:
    """Print `message` on standard error and leave with `code`."""
    typer.echo(f"palimpsest: {message}", err=True)
    raise typer.Exit(code)


def needs_checkout(what: str) -> None:
    """`fail` in an installed package, which holds neither chapters nor a folder of results that is the reader's."""
    if paths.INSTALLED:
        fail(f"{what} needs a checkout of the project; this is the package installed in {paths.ROOT}")
