"""`palimpsest check`: what can be done with a model of the reader's own, before a command is given it."""

import json
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .failure import fail

WIDTH = 118


def check(
    model: Annotated[str, typer.Argument(help="Folder of a model or a LoRA adapter, or a hub identifier.")],
    forget: Annotated[
        Path | None, typer.Option(help="JSON lines with question and answer to try it with; else shipped ones.")
    ] = None,
    retain: Annotated[Path | None, typer.Option(help="The same, to keep.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
) -> None:
    """Say what can be done with a model, how far and at what cost, and why not.

    The exit status is 0 where anything can be done, and 1 where nothing can or there is no model.
    """
    # transformers takes seconds to import, which no other command should pay.
    from palimpsest.examine import examine

    try:
        found = examine(model, forget, retain)
    except ValueError as error:
        fail(str(error))
    possible = [use for use in found.uses if use.why is None]
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=1, ensure_ascii=False))
    else:
        typer.echo(found.model)
        for name, value in found.facts.items():
            _line("", name, f"{value:,}" if isinstance(value, int) else str(value))
        for use in found.uses:
            _line("can" if use.why is None else "cannot", use.name, use.detail if use.why is None else use.why)
    if not possible:
        raise typer.Exit(1)


def _line(mark: str, name: str, text: str) -> None:
    head = f"{mark:>8}  {name:<28}"
    typer.echo(textwrap.fill(text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head)))
