"""The unlearning experiment: every method under one protocol, on one table that two chapters read.

Three kinds of step, each cached by itself: networks are trained (`cohort.train`), `tune` tries a method's
whole grid on the tuning cohort, `arm` runs it at the value chosen, on the seeds that claims are judged on.
"""

import copy
from dataclasses import dataclass
from itertools import chain

import pandas as pd

from palimpsest import runs
from palimpsest.chapters.shared import records
from palimpsest.chapters.shared.profiles import choose
from palimpsest.chapters.unlearning_quantised import measures
from palimpsest.chapters.unlearning_quantised.arms import FLOAT, HEADLINE, METHODS, TUNED_ON
from palimpsest.chapters.unlearning_quantised.cohort import Cohort, Problem
from palimpsest.chapters.unlearning_quantised.conditions import Condition, conditions
from palimpsest.chapters.unlearning_quantised.profiles import PROFILES, Setting
from palimpsest.metrics.distances import avg_gap
from palimpsest.training import TrainingDiverged, seeds
from palimpsest.unlearning.vision import Report, unlearn


def tune(profile: str, precision: str, method: str) -> list[dict]:
    """One row per grid value and tuning seed: the gap to Retrain, or None where training diverged."""
    cohort = Cohort.named(profile, "tuning", precision, TUNED_ON.name)
    seeds = len(cohort.seeds)
    grid = [value for value in METHODS[method].grid if value <= cohort.setting.largest]
    reference = measures.report(measures.outputs(cohort.load("retrain"), cohort.problem()), cohort.seeds)
    try:
        measured = _tried(cohort, method, grid)
    except TrainingDiverged:  # which of them did, only single runs can tell
        measured = []
        for value in grid:
            try:
                measured += _tried(cohort, method, [value])
            except TrainingDiverged:
                measured += [None] * seeds
    return [
        {
            "precision": precision,
            "method": method,
            "value": grid[i // seeds],
            "seed": cohort.seeds[i % seeds],
            "gap": None if row is None else avg_gap(row, reference[i % seeds]),
        }
        for i, row in enumerate(measured)
    ]


def _tried(cohort: Cohort, method: str, values: list[float]) -> list[dict]:
    """Reports of all seeds at each value: the values, too, are networks of one lockstep."""
    originals = cohort.load("original")
    models = [copy.deepcopy(model) for _ in values for model in originals]
    problem = cohort.problem(copies=len(values))
    forget(models, problem, cohort.setting, method, [value for value in values for _ in originals])
    return measures.report(measures.outputs(models, problem), problem.seeds)


def forget(models, problem: Problem, setting: Setting, method: str, lr: float | list[float]) -> Report:
    """Unlearn the problem's forget sets by the shared protocol."""
    return unlearn(
        models,
        problem.x,
        problem.y,
        problem.forget,
        METHODS[method],
        lr=lr,
        epochs=setting.unlearn_epochs,
        batch_size=setting.batch_size,
        # Other numbers than the ones that drew the data and the starting weights.
        seeds=[seeds.derived(seed, "unlearning") for seed in problem.seeds],
    )


def arm(profile: str, precision: str, forget_set: str, method: str, value: float) -> dict:
    """{"rows": one per judged seed, with the details of `measures` at the headline alone, "log": what the method
    recorded}.

    `method` may be "original" or "retrain". A run that diverges is repeated at the next smaller value of the grid,
    which the row's "value" shows.
    """
    cohort = Cohort.named(profile, "judged", precision, forget_set)
    log, work, epochs = [], 0.0, cohort.setting.unlearn_epochs
    if method in ("original", "retrain"):
        models = cohort.load(method)
        if method == "retrain":
            epochs = cohort.setting.epochs + (cohort.setting.qat_epochs if cohort.precision.bits else 0)
            work = 3.0 * epochs * cohort.retain.shape[1]
    else:
        models = cohort.load("original")
        try:
            done = forget(models, cohort.problem(), cohort.setting, method, value)
        except TrainingDiverged:
            smaller = [v for v in METHODS[method].grid if v < value]
            if not smaller:
                raise
            return arm(profile, precision, forget_set, method, smaller[-1])
        # A pass backward costs about two forward ones: gradients of the weights and of the inputs.
        log, work = done.log, done.samples_forward + 2.0 * done.samples_backward
    found = measures.outputs(models, cohort.problem())
    rows = measures.report(found, cohort.seeds)
    if (precision, forget_set) == HEADLINE:
        details = measures.details(models, found, cohort)
        rows = [row | more for row, more in zip(rows, details, strict=True)]
    name = {"precision": precision, "forget_set": forget_set, "method": method, "value": value, "work": work}
    rows = [{**name, "seed": seed, **row} for seed, row in zip(cohort.seeds, rows, strict=True)]
    return {"rows": rows, "log": [{**name, **entry} for entry in log]}


@dataclass(frozen=True, eq=False)
class Results:
    """`tuning`: one row per grid value and tuning seed. `rows`: one row per network, references included; shares in
    [0, 1], "gap" in points, "work" in sample passes, "weight_f" the adaptive weight of the forget set, a list by
    epoch, empty without one. `log`: what the methods recorded, one row per network and step. `values`: (precision
    tuned at, method) -> the grid value chosen."""

    tuning: pd.DataFrame
    rows: pd.DataFrame
    log: pd.DataFrame
    values: dict[tuple[str, str], float]

    @property
    def tuned(self) -> list[dict]:
        """`tuning` as plain rows; a gap of None is a run that diverged."""
        return records.plain_rows(self.tuning)

    def column(
        self, name: str, method: str, precision: str = HEADLINE[0], forget_set: str = HEADLINE[1]
    ) -> pd.Series:
        """One column of an arm by seed; shares in percent. ValueError for an arm that was not run."""
        rows = self.rows.query("method == @method and precision == @precision and forget_set == @forget_set")
        if rows.empty:
            raise ValueError(f"no arm ({method}, {precision}, {forget_set}) was run")
        scale = 100 if name in measures.SHARES else 1
        return scale * rows.set_index("seed")[name].sort_index()

    def logged(self, method: str, precision: str = HEADLINE[0], forget_set: str = HEADLINE[1]) -> pd.DataFrame:
        """What `method` recorded in one condition, a row per step in the order of the steps; no rows if nothing."""
        log = self.log
        return log[(log.method == method) & (log.precision == precision) & (log.forget_set == forget_set)]


def chosen(tuning: pd.DataFrame) -> dict[tuple[str, str], float]:
    """(precision, method) -> the value of smallest mean gap over the tuning seeds; ties to the smaller value."""
    whole = tuning.groupby(["precision", "method", "value"]).gap.agg(lambda gaps: gaps.mean(skipna=False))
    found = {}
    for (precision, method), gaps in whole.dropna().groupby(level=[0, 1]):
        found[precision, method] = float(gaps.droplevel([0, 1]).sort_index().idxmin())
    return found


def execute(profile: str, chapter: str) -> Results:
    """Train, tune, run: all that a chapter needs at one profile. Every step is cached, so it can be stopped.

    Raises ValueError for a profile that is not one of `profiles.PROFILES`.
    """
    todo = conditions(choose(profile, PROFILES), chapter)
    title = {"oeu": "OEU", "qmul": "Q-MUL"}[chapter]
    pairs = dict.fromkeys((c.tuned_at.name, m) for c in todo for m in c.methods)
    runs.run_all(_prepare, _networks(profile, todo), show=f"{title} 1/3: originals and retrained networks")
    grid = [{"profile": profile, "precision": p, "method": m} for p, m in pairs]
    tuning = pd.DataFrame(chain.from_iterable(runs.run_all(tune, grid, show=f"{title} 2/3: tuning")))
    values = chosen(tuning)
    jobs = [
        {"profile": profile, "precision": c.precision.name, "forget_set": c.forget_set.name, "method": m, "value": v}
        for c in todo
        for m, v in [
            ("original", 0.0),
            ("retrain", 0.0),
            *((m, values[c.tuned_at.name, m]) for m in c.methods if (c.tuned_at.name, m) in values),
        ]
    ]
    done = runs.run_all(arm, jobs, show=f"{title} 3/3: methods")
    rows = pd.DataFrame(chain.from_iterable(d["rows"] for d in done))
    where = ["precision", "forget_set", "seed"]
    retrain = rows[rows.method == "retrain"].set_index(where)
    reference = retrain.loc[pd.MultiIndex.from_frame(rows[where])]
    rows["gap"] = [
        avg_gap(row, ref) for row, ref in zip(rows.to_dict("records"), reference.to_dict("records"), strict=True)
    ]
    rows["rte"] = rows.work.to_numpy() / reference.work.to_numpy()
    rows["weight_f"] = [
        [entry["weight_f"][k] for entry in d["log"] if "weight_f" in entry]
        for d in done
        for k in range(len(d["rows"]))
    ]
    return Results(tuning, rows, pd.DataFrame(chain.from_iterable(d["log"] for d in done)), values)


def _networks(profile: str, todo: list[Condition]) -> list[dict]:
    """Which cohorts to train; float ones first, because the quantised ones start from them."""
    cohorts = [("tuning", p, TUNED_ON) for c in todo for p in (FLOAT, c.tuned_at)]
    cohorts += [("judged", p, c.forget_set) for c in todo for p in (FLOAT, c.precision)]
    return [
        {"profile": profile, "group": group, "precision": precision.name, "forget_set": forget_set.name}
        for group, precision, forget_set in sorted(dict.fromkeys(cohorts), key=lambda cohort: cohort[1] != FLOAT)
    ]


def _prepare(profile: str, group: str, precision: str, forget_set: str) -> None:
    """Train and keep the two networks of each seed."""
    cohort = Cohort.named(profile, group, precision, forget_set)
    for whose in ("original", "retrain"):
        cohort.load(whose)


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
