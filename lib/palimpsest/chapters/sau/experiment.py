"""The SAU experiment: which updates forget best in a sparse language model, at one loss of utility for all.

Jobs, each cached by itself: `make` trains or prunes a model, `search.trial` unlearns with values of the search on a
tuning seed, `arm` unlearns with the values chosen on one of the replications, `reference` measures a target and its
oracle. The profile decides which models these are, how large, and which arms (`profiles`).
"""

from dataclasses import dataclass, replace
from itertools import chain, islice

import pandas as pd
from torch import nn

from palimpsest import pruning, runs
from palimpsest.chapters.sau.arms import DENSE, KEYS, Arm
from palimpsest.chapters.sau.cohort import Cohort, gather, judge_of, to_make
from palimpsest.chapters.sau.course import forget
from palimpsest.chapters.sau.measures import compared
from palimpsest.chapters.sau.probes import train_again
from palimpsest.chapters.sau.profiles import JUDGED_AT, MAIN, PROFILES, Setting, Values
from palimpsest.chapters.sau.search import alike, chosen, elected, trial, trials
from palimpsest.chapters.shared.profiles import choose
from palimpsest.data import sau_models
from palimpsest.pruning import Masks

REPEATED = 2
"""Tuning seeds on which the searches of arms C and D are repeated at their end."""


def make(profile: str, group: str, seed: int, whose: str, pruner: str, sparsity: str) -> None:
    """Make and keep a model, unless it is kept already."""
    gather(profile, group, seed).load(whose, pruner, sparsity)


def reference(profile: str, seed: int, pruner: str, sparsity: str) -> list[dict]:
    """Rows of the target and of the oracle, pruned alike, and of what else a cohort refers to; and of the oracle as
    pruning leaves it before recovery, kind "oracle bare"."""
    cohort, rows, masks = gather(profile, "replication", seed), [], {}
    judge, setting = judge_of(cohort, pruner, sparsity), cohort.setting
    named = {"loss": "none", "pruner": pruner, "sparsity": sparsity, "seed": seed}
    for whose in cohort.references(pruner, sparsity):
        model, masks[whose] = cohort.load(whose, pruner, sparsity)
        rows.append(named | {"kind": whose} | judge.measure(model, whose))
        if (pruner, sparsity) in setting.examined_at and seed in setting.seeds[: setting.examined_seeds]:
            rows[-1] |= judge.examine(model, masks[whose])
    if (pruner, sparsity) != DENSE:
        if setting.overlap:
            rows[-1]["mask overlap"] = masks["target"].overlap(masks["oracle"])
        bare, _ = cohort.load("oracle")
        cohort.prune(bare, pruner, sparsity)
        rows.append(named | {"kind": "oracle bare"} | judge.measure(bare))
    return rows


def arm(profile: str, seed: int, fields: dict, values: Values) -> list[dict]:
    """The row of one arm; after arm A more for the recipes by which the forgetful dense model is then pruned."""
    cohort, this = gather(profile, "replication", seed), Arm(**fields)
    setting, named = cohort.setting, {"seed": seed, "lr": values[0], "alpha": values[1]}
    model, masks, course = forget(cohort, this, tuple(values))
    rows = [this.row | named | course | _measured(cohort, this, model, masks)]
    recipes = setting.recipes if this.loss == MAIN else [setting.judged_at]
    for where in recipes if this.letter == "A" and not this.frozen else ():
        if seed not in setting.seeds_at(*where):
            continue
        later = replace(this, pruner=where[0], sparsity=where[1])
        for kind, after, kept in cohort.pruned_after(model, *where):
            found = _measured(cohort, later, after, kept, examine=kind == "A")
            rows.append(later.row | {"kind": kind} | named | found)
    return rows


def _measured(cohort: Cohort, arm: Arm, model: nn.Module, masks: Masks | None, *, examine: bool = True) -> dict:
    """The columns of a model at the end of an arm, with "non-zero" pruned weights counted."""
    judge, setting = judge_of(cohort, *arm.start), cohort.setting
    found = judge.measure(model)
    if masks is not None:
        named = dict(model.named_parameters())
        found["non-zero"] = sum(int((named[n].cpu() != 0)[~kept.cpu()].sum()) for n, kept in masks.kept.items())
        found["valid 2:4"] = pruning.valid_n_m(masks, 2, 4) if arm.sparsity == "2:4" else None
    few = cohort.seed in setting.seeds[: setting.examined_seeds]
    if examine and few and arm in setting.arms_examined:
        found |= judge.examine(model, masks)
    return found


@dataclass(frozen=True, eq=False)
class Results:
    """`search`: the trials, as `search.trials`. `rows`: one row per model, references included; "gap closed" is
    (m_target − m) / (m_target − m_oracle) with m the forget set's mean answer probability, all three pruned alike.
    `values`: the step sizes and weights chosen. `repeated`: trials of the search that were shipped, beside the same
    ones computed here. `again`: the first seed's dense target trained once more, as `probes.train_again` describes
    it; None where the setting has no nudge."""

    search: pd.DataFrame
    rows: pd.DataFrame
    values: dict[tuple[str, ...], Values]
    repeated: pd.DataFrame | None = None
    again: dict | None = None

    @property
    def tuned(self) -> list[dict]:
        """The values chosen, as rows."""
        names = (*KEYS, "lr", "alpha")
        return [dict(zip(names, (*key, *values), strict=True)) for key, values in self.values.items()]

    @property
    def pruned(self) -> list[tuple[str, str]]:
        """The recipes by which models were pruned."""
        found = self.rows[self.rows.kind.eq("oracle bare")]
        return list(dict.fromkeys(zip(found.pruner, found.sparsity, strict=True)))

    def column(
        self, name: str, kind: str, pruner: str = JUDGED_AT[0], sparsity: str = JUDGED_AT[1], loss: str = MAIN
    ):
        """One column of an arm (or of a reference) by seed. ValueError for an arm that was not run."""
        loss = "none" if kind in ("target", "oracle", "oracle bare") else loss
        rows = self.rows.query("loss == @loss and kind == @kind and pruner == @pruner and sparsity == @sparsity")
        if rows.empty:
            raise ValueError(f"no arm ({loss}, {kind}, {pruner}, {sparsity}) was run")
        return rows.set_index("seed")[name].sort_index()


def execute(profile: str) -> Results:
    """Train, prune, search, run. Every job is cached, so it can be stopped and goes on where it was.

    Profiles of SmolLM2 need TOFU (`data.tofu`) and the folder of SmolLM2-135M-Instruct that PALIMPSEST_SMOLLM2 names.
    Raises ValueError without them, and for an unknown profile.
    """
    setting, common = choose(profile, PROFILES), {"profile": profile}
    if models := to_make(setting):
        runs.run_all(job, [{"what": "make", **common, **model} for model in models], show="SAU: models")
    found = sau_models.search() if setting.shipped else trials(setting)
    values = chosen(found)
    # The longest first, and all in one queue, so that no core waits.
    nudged = {"what": "again", **common, "seed": setting.seeds[0], "nudge": setting.nudge}
    again = [] if setting.nudge is None else [nudged]
    repeated = repeats(setting, values) if setting.shipped else []
    jobs = [
        {"what": "reference", **common, "seed": seed, "pruner": pruner, "sparsity": sparsity}
        for pruner, sparsity in (DENSE, *setting.recipes)
        for seed in setting.seeds_at(pruner, sparsity)
    ]
    jobs += [
        {"what": "arm", **common, "seed": seed, "fields": arm.fields, "values": values[arm.key]}
        for arm, seeds in runs_of(setting, found)
        for seed in seeds
    ]
    done = iter(runs.run_all(job, [*again, *repeated, *jobs], show="SAU: references and arms"))
    trained = next(done) if again else None
    compare = beside(found, repeated, list(islice(done, len(repeated)))) if repeated else None
    return Results(found, compared(pd.DataFrame(chain.from_iterable(done))), values, compare, trained)


def runs_of(setting: Setting, found: pd.DataFrame) -> list[tuple[Arm, tuple[int, ...]]]:
    """The arms that are run, each with its seeds."""
    whole = [(arm, setting.seeds) for arm in (*setting.arms, *elected(setting, found))]
    return whole + [(arm, setting.seeds[: setting.aside_seeds]) for arm in setting.asides]


def repeats(setting: Setting, values: dict[tuple[str, ...], Values]) -> list[dict]:
    """Trials of a shipped search that are computed again, as jobs."""
    arms = [
        arm for arm in setting.arms if arm.letter in ("C", "D") and arm.start == setting.judged_at and not arm.again
    ]
    return [
        {"what": "trial", "profile": setting.name, "seed": seed, "fields": arm.fields, "values": values[arm.key]}
        for arm in arms
        for seed in setting.tuning_seeds[:REPEATED]
    ]


def beside(found: pd.DataFrame, jobs: list[dict], gaps: list[float]) -> pd.DataFrame:
    """The shipped trials of `jobs` beside what they gave here."""
    rows = []
    for job, gap in zip(jobs, gaps, strict=True):
        arm, (lr, alpha) = Arm(**job["fields"]), job["values"]
        where = dict(zip(KEYS, arm.key, strict=True)) | {"lr": lr, "alpha": alpha, "seed": job["seed"]}
        rows.append(where | {"shipped": alike(found, **where)["gap closed"].item(), "here": gap})
    return pd.DataFrame(rows)


def job(what: str, **config) -> list[dict] | dict | float | None:
    """One job of the experiment by its name."""
    jobs = {"make": make, "again": train_again, "trial": trial, "reference": reference, "arm": arm}
    return jobs[what](**config)
