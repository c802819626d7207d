"""The unlearning experiment: every method under one protocol, on one table that two chapters read.

Two kinds of step, each cached by itself: networks are trained (`cohort.train`), and `run` lets a method forget on all
seeds, where it is tuned at every value of its grid. Nothing is run again for tuning: the value of one seed is what
did best, on validation images, on the seeds after it (`chosen`), and its row is that of the value chosen.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import pandas as pd
from torch import nn

from palimpsest import runs
from palimpsest.chapters.shared import records
from palimpsest.chapters.shared.profiles import choose
from palimpsest.chapters.unlearning_quantised import measures
from palimpsest.chapters.unlearning_quantised.arms import (
    FLOAT,
    HEADLINE,
    METHODS,
    PLACEBO,
    QUIRKED,
    REFERENCES,
    TUNED_ON,
    W2A2,
    W8A8,
    values_around,
)
from palimpsest.chapters.unlearning_quantised.cohort import Cohort, train
from palimpsest.chapters.unlearning_quantised.conditions import Condition, conditions
from palimpsest.chapters.unlearning_quantised.profiles import PROFILES
from palimpsest.metrics.distances import avg_gap
from palimpsest.training import TrainingDiverged, seeds
from palimpsest.unlearning.vision import Method, Report, unlearn


def grid(profile: str, precision: str, method: str) -> list[float]:
    """The values that are tried of a method at a precision, the same number of each."""
    tried = PROFILES[profile].tried
    return list(METHODS[method].grid) if tried is None else values_around(method, precision, tried)


def forget(
    cohort: Cohort,
    name: str,
    method: Method,
    networks: Sequence[int],
    values: Sequence[float],
    originals: list[nn.Module] | None = None,
) -> tuple[list[nn.Module], Report]:
    """Copies of the `originals` (default: the cohort's own) of these networks after `method`, called `name`, at one
    value each.

    All are one lockstep; a network may come more than once. Raises TrainingDiverged as `unlearn` does.
    """
    originals, setting = originals or cohort.load("original"), cohort.setting
    models, problem = [copy.deepcopy(originals[k]) for k in networks], cohort.problem().of(list(networks))
    report = unlearn(
        models,
        problem.x,
        problem.y,
        problem.forget,
        method,
        lr=list(values),
        epochs=setting.unlearn_epochs,
        batch_size=setting.unlearn_batch,
        retain_samples=setting.retain_samples,
        seeds=run_seeds(problem.seeds, "again") if name == PLACEBO[1] else run_seeds(problem.seeds),
    )
    return models, report


def run_seeds(own: Sequence[int], *purpose: str) -> list[int]:
    """What a run draws from: other numbers than those that drew the data and the starting weights."""
    return [seeds.derived(seed, "unlearning", *purpose) for seed in own]


def run(
    profile: str,
    precision: str,
    forget_set: str,
    method: str,
    values: Sequence[float] | None = None,
    only: Sequence[int] | None = None,
) -> dict:
    """{"rows": one per value and seed, "log": what the method recorded, one per value, seed and step}.

    `method` is a key of METHODS or QUIRKED, or one of REFERENCES. `values`: one per seed; None tries the grid.
    A run that diverges has a row with "diverged" and no measures.
    """
    cohort = Cohort.named(profile, precision, forget_set, only)
    name = {"precision": precision, "forget_set": forget_set, "method": method}
    if method in REFERENCES:
        found, _ = measures.reference(cohort, method)
        every = list(range(len(cohort.seeds)))
        rows = _measured(cohort.load(method), found, cohort, every)
        name |= {"value": 0.0, "rte": float(method != "original")}
        return {
            "rows": [{**name, "seed": seed, **row} for seed, row in zip(cohort.seeds, rows, strict=True)],
            "log": [],
        }
    every, originals = range(len(cohort.seeds)), cohort.load("original")
    lockstep = (
        [[value] * len(every) for value in grid(profile, precision, method)] if values is None else [list(values)]
    )
    rows, log = [], []
    for tried in lockstep:
        for k, (row, steps) in zip(every, _forgotten(cohort, method, every, tried, originals), strict=True):
            about = {**name, "value": tried[k], "seed": cohort.seeds[k]}
            rows.append(about | row)
            log += [about | step for step in steps]
    return {"rows": rows, "log": log}


def _work_of_training(cohort: Cohort) -> float:
    """Of Retrain, in samples forward."""
    epochs = cohort.setting.epochs + (cohort.setting.qat_epochs if cohort.precision.bits else 0)
    return 3.0 * epochs * cohort.retain.shape[1]


def _forgotten(
    cohort: Cohort, name: str, networks: Sequence[int], values: Sequence[float], originals: list[nn.Module]
) -> Iterator[tuple[dict, list[dict]]]:
    """(row, log) of each network at its value; where one of them diverges, halves are run again to tell which."""
    try:
        models, done = forget(cohort, name, METHODS.get(name) or QUIRKED[name], networks, values, originals)
    except TrainingDiverged:
        if len(networks) == 1:
            yield {"diverged": True}, []
            return
        half = len(networks) // 2
        yield from _forgotten(cohort, name, networks[:half], values[:half], originals)
        yield from _forgotten(cohort, name, networks[half:], values[half:], originals)
        return
    found = measures.outputs(models, cohort.problem().of(list(networks)))
    # A pass backward costs about two forward ones: gradients of the weights and of the inputs.
    work = done.samples_forward + 2.0 * done.samples_backward
    counted = {"steps": done.steps, "backward": done.samples_backward, "rte": work / _work_of_training(cohort)}
    for i, row in enumerate(_measured(models, found, cohort, list(networks))):
        steps = [{n: v[i] if isinstance(v, list) else v for n, v in step.items()} for step in done.log]
        yield counted | row, steps


def _measured(models: list[nn.Module], found: measures.Outputs, cohort: Cohort, networks: list[int]) -> list[dict]:
    """Shares and details of each model, with its average gap to Retrain, in points, on test and validation images."""
    own = [cohort.seeds[k] for k in networks]
    rows = [row | {"diverged": False} for row in measures.report(found, own)]
    tuning, targets = measures.report(found, own, "validation"), measures.targets(cohort)
    for i, k in enumerate(networks):
        rows[i] |= {"gap": avg_gap(rows[i], targets["test"][k])}
        rows[i] |= {"tuning_gap": avg_gap(tuning[i], targets["validation"][k])}
    return [row | more for row, more in zip(rows, measures.details(models, found, cohort, networks), strict=True)]


KEYS = ["precision", "forget_set", "method"]


@dataclass(frozen=True, eq=False)
class Results:
    """Rows of every network, as tables.

    tried: one row per value and seed of the conditions where methods are tuned. rows: one per network of every
    condition at the value chosen, references included; shares in [0, 1], "gap" in points, "steps", "backward"
    (samples passed backward), "rte" (work as a share of retraining), "diverged". log: what the methods recorded at
    those values, one row per network and step. values: (precision, method) -> the value of each seed. tuned_on:
    seeds; left_out: the one that no tuning used.
    """

    tried: pd.DataFrame
    rows: pd.DataFrame
    log: pd.DataFrame
    values: dict[tuple[str, str], dict[int, float]]
    tuned_on: int
    left_out: int | None = None

    @property
    def tuned(self) -> list[dict]:
        """What tuning compared, as plain rows; a gap of None is a run that diverged."""
        return records.plain_rows(self.tried[[*KEYS, "value", "seed", "tuning_gap"]])

    def column(
        self, name: str, method: str, precision: str = HEADLINE[0], forget_set: str = HEADLINE[1]
    ) -> pd.Series:
        """One column of an arm by seed, NaN where it diverged; shares in percent. ValueError for an arm that was not
        run."""
        rows = self.rows.query("method == @method and precision == @precision and forget_set == @forget_set")
        if rows.empty:
            raise ValueError(f"no arm ({method}, {precision}, {forget_set}) was run")
        scale = 100 if name in measures.SHARES else 1
        return scale * rows.set_index("seed")[name].sort_index()

    def logged(self, method: str, precision: str = HEADLINE[0], forget_set: str = HEADLINE[1]) -> pd.DataFrame:
        """What `method` recorded in one condition, a row per seed and step in the order of the steps."""
        log = self.log
        return log[(log.method == method) & (log.precision == precision) & (log.forget_set == forget_set)]

    def without(self, seed: int) -> "Results":
        """The results with this seed left out of every tuning; what was not tuned where it ran stays as it is."""
        values = chosen(self.tried, self.tuned_on, left_out=seed)
        was_tuned = self.rows.merge(self.tried[KEYS].drop_duplicates(), how="left", on=KEYS, indicator=True)
        kept = self.rows[(was_tuned._merge == "left_only").to_numpy()]
        rows = pd.concat([kept, at_values(self.tried, values)], ignore_index=True)
        return replace(self, rows=rows, values=values, left_out=seed)


def chosen(
    tried: pd.DataFrame, tuned_on: int, left_out: int | None = None
) -> dict[tuple[str, str], dict[int, float]]:
    """(precision, method) -> seed -> the value of smallest mean gap on validation images over the `tuned_on` seeds
    that come after it in a ring, `left_out` passed over; ties to the smaller value.

    A value at which one of them diverged is not taken. A seed without a value is left out.
    """
    found = {}
    for (precision, method), rows in tried.groupby(["precision", "method"], sort=False):
        gaps = rows.pivot(index="value", columns="seed", values="tuning_gap").sort_index()
        ring, values = sorted(gaps.columns), {}
        for seed in ring:
            after = _after(seed, ring, tuned_on, left_out)
            mean = gaps[after].mean(axis=1, skipna=False).dropna()
            if len(mean):
                values[seed] = float(mean.idxmin())
        found[precision, method] = values
    return found


def best_of(results: Results, methods: Sequence[str], precision: str = HEADLINE[0]) -> pd.DataFrame:
    """The rows by seed of the one of `methods` that, at its own value, did best on the seeds that tune it: settings
    of one method that are tuned along with its step size."""
    tried, mean = results.tried.query("precision == @precision and method in @methods"), {}
    for method, rows in tried.groupby("method", sort=False):
        gaps = rows.pivot(index="value", columns="seed", values="tuning_gap")
        for seed, value in results.values[precision, method].items():
            after = _after(seed, sorted(gaps.columns), results.tuned_on, results.left_out)
            mean[seed, method] = gaps.loc[value, after].mean()
    found = pd.Series(mean).unstack().idxmin(axis=1)
    rows = results.rows.query("precision == @precision and forget_set == @HEADLINE[1]")
    kept = [found.get(seed) == method for seed, method in zip(rows.seed, rows.method, strict=True)]
    return rows[kept].set_index("seed").sort_index()


def _after(seed: int, ring: list[int], count: int, left_out: int | None) -> list[int]:
    """The `count` seeds after `seed` in the ring, as if `left_out` were not in it."""
    i = ring.index(seed)
    return [s for s in (*ring[i + 1 :], *ring[:i]) if s != left_out][:count]


def at_values(rows: pd.DataFrame, values: dict[tuple[str, str], dict[int, float]]) -> pd.DataFrame:
    """The rows of networks at the values chosen for their seeds."""
    wanted = [
        values[precision, method].get(seed) == value
        for precision, method, seed, value in zip(rows.precision, rows.method, rows.seed, rows.value, strict=True)
    ]
    return rows[wanted]


def execute(profile: str, chapter: str) -> Results:
    """Train, forget, choose: all that a chapter needs at one profile. Every step is cached, so it can be stopped.

    Raises ValueError for a profile that is not one of `profiles.PROFILES`.
    """
    setting = choose(profile, PROFILES)
    todo = conditions(setting, chapter)
    title = {"oeu": "OEU", "qmul": "Q-MUL"}[chapter]
    for number, jobs in enumerate(_networks(profile, todo, chapter), 1):
        runs.run_all(_prepare, jobs, show=f"{title} {number}/4: {('float', 'quantised')[number - 1]} networks")
    tuned = [c for c in todo if c.tuned_here]
    done = runs.run_all(
        run, [_job(profile, c, m) for c in tuned for m in (*REFERENCES, *c.methods)], show=f"{title} 3/4: methods"
    )
    rows = pd.DataFrame(chain.from_iterable(d["rows"] for d in done))
    tried = rows[~rows.method.isin(REFERENCES)].reset_index(drop=True)
    values = chosen(tried, setting.tuned_on)
    jobs = []
    for c in todo:
        if not c.tuned_here:
            jobs += [_job(profile, c, m) for m in REFERENCES[:2]]
            jobs += [_job(profile, c, m, values[HEADLINE[0], m]) for m in c.methods]
    if chapter == "qmul":
        jobs += [_job(profile, todo[0], quirk, values[HEADLINE[0], "Q-MUL"]) for quirk in QUIRKED]
    further = runs.run_all(run, jobs, show=f"{title} 4/4: at the values chosen")
    log = pd.DataFrame(chain.from_iterable(d["log"] for d in done))
    rows = pd.concat(
        [
            rows[rows.method.isin(REFERENCES)],
            at_values(tried, values),
            pd.DataFrame(chain.from_iterable(d["rows"] for d in further)),
        ],
        ignore_index=True,
    )
    return Results(tried, rows, at_values(log, values).reset_index(drop=True), values, setting.tuned_on)


def _job(profile: str, condition: Condition, method: str, values: dict[int, float] | None = None) -> dict:
    """The arguments of `run`; with `values`, only for the seeds that have one."""
    own = PROFILES[profile].seeds[: condition.only]
    job = {"profile": profile, "precision": condition.precision.name, "forget_set": condition.forget_set.name}
    job["method"] = method
    if values is None:
        return job | {"only": None if condition.only is None else list(own)}
    kept = [seed for seed in own if seed in values]
    return job | {"values": [values[seed] for seed in kept], "only": kept}


def _networks(profile: str, todo: list[Condition], chapter: str) -> tuple[list[dict], list[dict]]:
    """Which networks to train, in parts: the float ones first, because the quantised ones start from them."""
    wanted = [
        (c.precision, c.forget_set, c.only, whose) for c in todo for whose in REFERENCES[: 3 if c.tuned_here else 2]
    ]
    if chapter == "qmul":
        wanted += [(precision, TUNED_ON, None, "original") for precision in (W8A8, W2A2)]
    stages = []
    for quantised in (False, True):
        jobs = {}
        for precision, forget_set, only, whose in wanted:
            if precision == FLOAT and quantised:
                continue
            setting = PROFILES[profile]
            cohort = Cohort(setting, precision if quantised else FLOAT, forget_set, only and setting.seeds[:only])
            for part in cohort.parts():
                named = part.named_as(whose)
                jobs[tuple(named.values())] = named
        stages.append(list(jobs.values()))
    return tuple(stages)


def _prepare(profile: str, precision: str, without: str | None, again: bool, only: Sequence[int]) -> None:
    """Train and keep one part of a cohort."""
    named = {"profile": profile, "precision": precision, "without": without, "again": again, "only": only}
    runs.artifact(train, named)


class NotMemorised(RuntimeError):
    """The gate: unlearning can only be measured where something was memorised."""


def gate(measured: pd.DataFrame) -> pd.DataFrame:
    """By precision and forget set of the table `Results.rows`: accuracy of the original on its training data, and FA
    of the original minus FA of Retrain, in points. Raises NotMemorised where that is less than 5 points."""
    table = []
    for (precision, forget_set), rows in measured.groupby(["precision", "forget_set"], sort=False):
        fa, ra = rows.groupby("method").FA.mean(), rows.groupby("method").RA.mean()
        excess = 100 * (fa["original"] - fa["retrain"])
        table.append(
            {
                "precision": precision,
                "forget set": forget_set,
                "original, RA %": 100 * ra["original"],
                "original, FA %": 100 * fa["original"],
                "Retrain, FA %": 100 * fa["retrain"],
                "FA in excess, points": excess,
            }
        )
        if excess < 5:
            raise NotMemorised(
                f"at {precision}, {forget_set}, the original's FA exceeds Retrain's by {excess:.1f} points, want 5 "
                "or more; train the original longer, without augmentation"
            )
    return pd.DataFrame(table)
