"""`palimpsest data`: what is shipped, checked against the manifest."""

import typer

from palimpsest.data import manifest

from .failure import fail


def data() -> None:
    """Check every file under data/ against the manifest, and list them."""
    try:
        manifest.check()
    except ValueError as error:
        fail(str(error))
    for entry in manifest.read().values():
        typer.echo(f"{entry['bytes']:>10}  {entry['licence']:<12} {entry['path']}")
