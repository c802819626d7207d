"""`palimpsest run`: experiments at a profile.

Chapters are imported when one runs: importing them pins the arithmetic, and no other command should do that.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from .failure import fail, needs_checkout


def _jscds(profile: str):
    from palimpsest.chapters.jscds import experiment

    return experiment.execute(profile)


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


def plan_of(name: str):
    """The `Plan` of the study of experiment `name`; None where its rows alone are recorded."""
    from palimpsest.chapters.jscds import study as jscds
    from palimpsest.chapters.unlearning_quantised import study as unlearning

    return {"oeu": unlearning.PLAN, "qmul": unlearning.PLAN, "jscds": jscds.PLAN}.get(name)


def run(
    names: Annotated[list[str] | None, typer.Argument(help="Experiments; all when none is named.")] = None,
    profile: Annotated[str, typer.Option(help="smoke, ci, study, paper, or a variant of paper.")] = "ci",
    pending: Annotated[bool, typer.Option(help="Only experiments that are not recorded at this profile.")] = False,
    accept: Annotated[
        list[str] | None, typer.Option(help="Digest of another source whose stored arms count; may be repeated.")
    ] = None,
) -> None:
    """Run experiments. A study and the papers' protocol are recorded in data/; smoke and ci fill the cache.

    A study can be stopped and started again, here or, once it is committed, on another machine.
    """
    if profile not in ("smoke", "ci"):
        needs_checkout(f"run --profile {profile}")
    from palimpsest.chapters.shared import records, study

    for name in names or EXPERIMENTS:
        if name not in EXPERIMENTS:
            fail(f"experiment: got {name!r}, want one of {sorted(EXPERIMENTS)}")
        plan = plan_of(name) if profile == "study" else None
        file = plan.file if plan else records.path_of(name, profile)
        try:
            if pending and (study.complete(plan) if plan else file.exists()):
                typer.echo(f"{name}: recorded in {file}")
                continue
            if plan:
                typer.echo(f"{name}: {len(study.run(plan, tuple(accept or ())))} arms in {file.parent}")
                continue
            results = EXPERIMENTS[name](profile)
        except (ValueError, RuntimeError) as error:  # of ours: what is missing, by name
            fail(str(error))
        if profile not in ("smoke", "ci"):
            records.write(name, profile, results.tuned, results.rows)
        typer.echo(f"{name}: {len(results.rows)} rows at profile {profile}")
