"""`palimpsest data`: what is shipped, checked against the manifest; entering what was changed."""

from pathlib import Path
from typing import Annotated

import typer

from palimpsest.data import manifest

from .failure import fail, needs_checkout


def data(
    listed: Annotated[
        list[Path] | None,
        typer.Option("--list", help="Enter this file as it now is; may be repeated. A file that is gone is dropped."),
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Of what --list enters; else as listed.")] = None,
    origin: Annotated[str | None, typer.Option(help="Where that comes from; else as listed.")] = None,
    made_by: Annotated[str | None, typer.Option(help="The command that made it; else as listed.")] = None,
) -> None:
    """Check every file under data/ against the manifest, and list them; or enter changed ones (--list)."""
    details = {"licence": licence, "origin": origin, "made_by": made_by}
    try:
        if listed:
            needs_checkout("data --list")
            entries = manifest.enter([path.absolute() for path in listed], **details)
        elif given := [name for name, value in details.items() if value is not None]:
            raise ValueError(f"{given[0]}: got {details[given[0]]!r} without --list, which names what it is of")
        else:
            manifest.check()
            entries = manifest.read().values()
    except ValueError as error:
        fail(str(error))
    for entry in entries:
        typer.echo(f"{entry['bytes']:>10}  {entry['licence']:<12} {entry['path']}")
