"""Studies: what verdicts rest on, computed once in hours and recorded with every arm's predictions.

A chapter describes its study as a `Plan`. `run` computes the arms that are not stored yet and can be stopped at any
time: what is finished is listed in `data/MANIFEST`, so it can be committed and continued on another machine.
`recompute` measures every number of `rows.json` again, from the stored predictions alone.
"""

import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from palimpsest import runs
from palimpsest.chapters.shared import stored
from palimpsest.chapters.shared.stored import Arm
from palimpsest.data import manifest
from palimpsest.runs import paths
from palimpsest.runs.sources import closure

EXACT = 1e-9
"""Relative difference up to which two numbers are one: sums of float64 end otherwise on other processors."""

LAYOUT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} arms [{elapsed}{postfix}]"


@dataclass(frozen=True)
class Outcome:
    """What one arm gives: `predictions`, named arrays (floats that float16 holds, labels in 0 .. 255), empty if it
    diverged; `counted`: plain numbers that no prediction tells, such as the tuned value; `start`: a network's state,
    as `stored.halved`, that other arms start from."""

    predictions: dict[str, np.ndarray]
    counted: dict = field(default_factory=dict)
    start: dict[str, torch.Tensor] | None = None


@dataclass(frozen=True)
class Plan:
    """A study, in functions at the top level of a module.

    - `stages()`: lists of arms; those of one stage need only what earlier stages have stored.
    - `compute(arms)`: an `Outcome` each, of arms that differ in their seed alone. Only it and what it reaches decide
      the predictions: the digest of its source is recorded with every arm.
    - `reference(arm)`: the arm with which this one is compared, of its stage or an earlier one; or None.
    - `origin(arm)`: the arm whose stored start this one takes; None for arms that are computed from nothing.
    - `measure(arm, predictions, reference)`: the numbers of a row, from the stored predictions of the arm and of its
      reference, NaN where one is not defined. Arms that diverged are not measured.
    - `kind(arm)`: arms of one kind take about the same time.
    """

    name: str
    command: str
    stages: Callable[[], list[list[Arm]]]
    compute: Callable[[list[Arm]], list[Outcome]]
    reference: Callable[[Arm], Arm | None]
    origin: Callable[[Arm], Arm | None]
    measure: Callable[[Arm, dict, dict | None], dict[str, float]]
    kind: Callable[[Arm], str]

    @property
    def arms(self) -> list[Arm]:
        return [arm for stage in self.stages() for arm in stage]

    @property
    def file(self) -> Path:
        """The table of its rows."""
        return stored.folder(self.name) / "rows.json"

    @property
    def source(self) -> str:
        """Digest of the source that computes predictions, the same with and without Triton."""
        return closure(self.compute, triton=True).digest


def run(plan: Plan, accept: tuple[str, ...] = ()) -> pd.DataFrame:
    """Compute what is not stored yet and return the table of rows, as `recompute`.

    On a CPU arms go to the cores one by one; on a GPU all seeds of an arm run in lockstep. When interrupted, arms
    under way are finished first. `accept`: digests of other sources whose arms count too.

    Raises ValueError, before anything is computed, for stored files that were cut short, altered or lost, and for
    arms of another source than this one that is not accepted.
    """
    done = stored.finished(plan.name, plan.arms)
    todo = [[arm for arm in stage if arm not in done] for stage in plan.stages()]
    accepted = _accepted(plan, accept, mixing=any(todo))
    _require_sources(plan, done, accepted)
    seconds, left = defaultdict(list), Counter(plan.kind(arm) for stage in todo for arm in stage)
    here = runs.environment()["device"]
    for arm in done:
        made = stored.header(stored.file_of(plan.name, arm))["made"]
        if made["environment"]["device"] == here:
            seconds[plan.kind(arm)].append(made["seconds"])
    try:
        with runs.progress_bar(total=len(plan.arms), initial=len(done), desc=plan.name, layout=LAYOUT) as bar:

            def count(took: list[tuple[Arm, float]]) -> None:
                for arm, each in took:
                    seconds[plan.kind(arm)].append(each)
                    left[plan.kind(arm)] -= 1
                bar.set_postfix_str(forecast(seconds, left), refresh=False)
                bar.update(len(took))

            bar.set_postfix_str(forecast(seconds, left))
            for stage in todo:
                _compute(plan, stage, count)
    except KeyboardInterrupt:
        print("stopping: arms under way are finished first; interrupt again to lose them", flush=True)
        runs.drain()
        raise
    finally:
        rows = _record(plan, accepted)
    return _table(rows)


def forecast(seconds: dict[str, list[float]], left: Counter) -> str:
    """The hours that the arms `left` take, by the mean seconds of finished arms of their kind; a kind of which none
    is finished takes the mean of all."""
    every = [each for kind in seconds.values() for each in kind]
    if not every:
        return "no forecast yet"
    total = sum(n * float(np.mean(seconds.get(kind) or every)) for kind, n in left.items())
    side_by_side = 1 if torch.cuda.is_available() else runs.workers()
    return f"about {total / 3600 / side_by_side:.1f} h left"


def _compute(plan: Plan, arms: list[Arm], done: Callable) -> None:
    if torch.cuda.is_available():
        together = defaultdict(list)
        for arm in arms:
            together[tuple((name, value) for name, value in arm.items() if name != "seed")].append(arm)
        for batch in together.values():
            done(finish(plan, plan.source, batch))
        return
    call = partial(finish, plan, plan.source)
    runs.spread(call, [[arm] for arm in arms], name=plan.name, done=done)


def finish(plan: Plan, source: str, arms: list[Arm]) -> list[tuple[Arm, float]]:
    """Compute and store `arms`; returns each with its seconds. `source`: `plan.source` where they were asked for."""
    with runs.alone(plan.compute, triton=True, source=source):
        began = time.perf_counter()
        outcomes = plan.compute(arms)
        each = (time.perf_counter() - began) / len(arms)
    made = {
        "source": source,
        "seconds": round(each, 1),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": plan.command,
        "environment": runs.environment(),
    }
    for arm, outcome in zip(arms, outcomes, strict=True):
        stored.write(
            plan.name,
            arm,
            stored.rounded(outcome.predictions),
            {"counted": outcome.counted, "made": made},
            outcome.start,
            wanted=len(plan.arms),
            made_by=plan.command,
        )
    return [(arm, each) for arm in arms]


def numbers(plan: Plan, arm: Arm, predictions: dict[str, np.ndarray]) -> dict[str, float | None]:
    """What `plan.measure` says of predictions that are `stored.rounded`; {} if the arm or its reference diverged."""
    against = plan.reference(arm)
    reference = predictions if against == arm else against and stored.predictions(plan.name, against)
    if not predictions or reference == {}:
        return {}
    found = plan.measure(arm, predictions, reference)
    return {name: float(value) if math.isfinite(value) else None for name, value in found.items()}


def measured(plan: Plan) -> list[dict]:
    """A row for each stored arm: {"arm", "numbers", "counted", "made"}."""
    rows = []
    for arm in stored.finished(plan.name, plan.arms):
        about = stored.header(stored.file_of(plan.name, arm))
        rows.append({**about, "numbers": numbers(plan, arm, stored.predictions(plan.name, arm))})
    return rows


def recompute(plan: Plan) -> pd.DataFrame | None:
    """The table of rows, every number measured anew: the arm's fields, its numbers, what was counted, "source" and
    "commit". None if nothing was recorded.

    Raises ValueError for a file that was cut short, altered or lost, for arms of a source that the record does not
    accept, and for rows that do not say what the predictions give; it names the file or the number.
    """
    if not plan.file.exists():
        return None
    record = json.loads(manifest.verify(plan.file.relative_to(paths.DATA)).read_text())
    rows = measured(plan)
    _require_sources(plan, [row["arm"] for row in rows], record["accepted"])
    said = {stored.name_of(row["arm"]): row for row in record["rows"]}
    for row in rows:
        name = stored.name_of(row["arm"])
        if name not in said or any(said[name][part] != row[part] for part in ("arm", "counted", "made")):
            raise ValueError(f"{plan.file}: the row of {name} is not that of its predictions; run the study again")
        _require_equal(plan, name, said[name]["numbers"], row["numbers"])
    if lost := said.keys() - {stored.name_of(row["arm"]) for row in rows}:
        raise ValueError(f"{plan.file}: has rows without predictions: {sorted(lost)}")
    return _table(rows)


def complete(plan: Plan) -> bool:
    """Whether every arm is stored and the table written; nothing is measured. ValueError for files as `recompute`."""
    return plan.file.exists() and len(stored.finished(plan.name, plan.arms)) == len(plan.arms)


def _table(rows: list[dict]) -> pd.DataFrame:
    made = [{"source": r["made"]["source"], "commit": r["made"]["environment"]["commit"]} for r in rows]
    parts = [row["arm"] | row["numbers"] | row["counted"] | by for row, by in zip(rows, made, strict=True)]
    return pd.DataFrame(parts)


def _require_equal(plan: Plan, name: str, stated: dict, found: dict) -> None:
    for number in sorted(stated.keys() | found.keys()):
        a, b = stated.get(number), found.get(number)
        if a != b and (a is None or b is None or not math.isclose(a, b, rel_tol=EXACT, abs_tol=EXACT)):
            raise ValueError(f"{plan.file}: {name}: states {number} = {a}, the stored predictions give {b}")


def _accepted(plan: Plan, accept: tuple[str, ...], *, mixing: bool) -> list[str]:
    """The sources whose arms count. What the record accepts does so unless another source is about to add arms."""
    known = []
    if plan.file.exists():
        try:
            known = json.loads(plan.file.read_text())["accepted"]
        except (json.JSONDecodeError, KeyError) as error:
            raise ValueError(f"{plan.file}: not the rows of a study: {error}; restore it") from error
    if mixing and plan.source not in known:
        known = []
    return list(dict.fromkeys([*known, *accept, plan.source]))


def _require_sources(plan: Plan, arms: list[Arm], accepted: list[str]) -> None:
    for arm in arms:
        file = stored.file_of(plan.name, arm)
        made = stored.header(file)["made"]
        if made["source"] not in accepted:
            raise ValueError(
                f"{file}: predictions of another source: {made['source'][:12]}… of commit "
                f"{made['environment']['commit']}, want one of {[source[:12] + '…' for source in accepted]}; "
                f"continue at that commit, or let them count with `{plan.command} --accept {made['source']}`"
            )


def _record(plan: Plan, accepted: list[str]) -> list[dict]:
    """Write and list the table of rows, and return them; there is no table before the first row."""
    rows = measured(plan)
    if not rows:
        return rows
    used = {row["made"]["source"] for row in rows}
    content = {
        "command": plan.command,
        "wanted": len(plan.arms),
        "seeds": sorted({row["arm"]["seed"] for row in rows}),
        "accepted": [source for source in accepted if source in used],
        "rows": rows,
    }
    text = json.dumps(content, indent=0, allow_nan=False)
    runs.write_atomic(plan.file, lambda path: Path(path).write_text(text))
    manifest.update([plan.file.relative_to(paths.DATA)], made_by=plan.command)
    return rows
