"""How a subcommand says that it cannot go on."""

from typing import NoReturn

import typer


def fail(message: str, code: int = 1) -> NoReturn:
    """Print `message` on standard error and leave with `code`."""
    typer.echo(f"palimpsest: {message}", err=True)
    raise typer.Exit(code)
