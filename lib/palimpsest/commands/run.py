"""`palimpsest run`: experiments at a profile.

Chapters are imported when one runs: importing them pins the arithmetic, and no other command should do that.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from palimpsest.runs import paths

from .failure import fail, needs_checkout


def _jscds(profile: str):
    from palimpsest.chapters.jscds import experiment

    return experiment.run(profile)


def _unlearning(profile: str, chapter: str):
    from palimpsest.chapters.unlearning_quantised import experiment

    return experiment.execute(profile, chapter=chapter)


def _sau(profile: str):
    from palimpsest.chapters.sau import experiment

    return experiment.execute(profile)


def _sage(profile: str):
    from palimpsest.chapters.sage import experiment

    return experiment.execute(profile)


EXPERIMENTS: dict[str, Callable] = {
    "sau": _sau,
    "jscds": _jscds,
    "oeu": partial(_unlearning, chapter="oeu"),
    "qmul": partial(_unlearning, chapter="qmul"),
    "sage": _sage,
}
"""By name, what runs it at a profile."""


def run(
    names: Annotated[list[str] | None, typer.Argument(help="Experiments; all when none is named.")] = None,
    profile: Annotated[str, typer.Option(help="smoke, ci, full, or a variant of full.")] = "ci",
    pending: Annotated[bool, typer.Option(help="Only experiments without recorded rows at this profile.")] = False,
) -> None:
    """Run experiments. Rows of `full` and its variants are recorded in data/results; the others fill the cache."""
    if profile.startswith("full"):
        needs_checkout(f"run --profile {profile}")
    from palimpsest.chapters.shared import records

    for name in names or EXPERIMENTS:
        if name not in EXPERIMENTS:
            fail(f"experiment: got {name!r}, want one of {sorted(EXPERIMENTS)}")
        file = records.path_of(name, profile)
        if pending and file.exists():
            typer.echo(f"{name}: recorded in {file.relative_to(paths.ROOT)}")
            continue
        try:
            results = EXPERIMENTS[name](profile)
        except ValueError as error:
            fail(str(error))
        if profile.startswith("full"):
            records.write(name, profile, results.tuned, results.rows)
        typer.echo(f"{name}: {len(results.rows)} rows at profile {profile}")
