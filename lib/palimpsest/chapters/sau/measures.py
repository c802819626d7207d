"""What is measured of a model in the SAU experiment.

Retention is the harmonic mean of three mean answer probabilities: retained authors, real authors, world facts. Half
of the questions decide where a run is stopped (validation), the other half is what the verdict sees (test).
"""

from functools import cache
from statistics import fmean, harmonic_mean

import pandas as pd
import torch
from torch import Tensor, nn

from palimpsest.chapters.sau.cohort import Cohort, Setting
from palimpsest.data import authors
from palimpsest.data.questions import Questions
from palimpsest.metrics import tofu
from palimpsest.nets.language import Encoded
from palimpsest.pruning import Masks
from palimpsest.unlearning.language import evaluation, stress
from palimpsest.unlearning.language.evaluation import probability

BAR = 0.95
"""Share of its start's retention that a run must keep on the validation half."""
EXAMINED = 32
"""Retained questions in each half."""
RELEARNT, RELEARN_EPOCHS, RELEARN_LR = 5, 5, 3e-4


def half(cohort: Cohort, which: str) -> dict[str, Questions]:
    """The sets of retention: even questions are "validation", odd ones "test"."""
    first = 0 if which == "validation" else 1
    sets = {"retain": cohort.retain, **{name: authors.load(name) for name in evaluation.CHOICE}}
    order = torch.randperm(len(cohort.retain), generator=torch.Generator().manual_seed(cohort.seed)).tolist()
    found = {name: questions.subset(range(first, len(questions), 2)) for name, questions in sets.items()}
    return found | {"retain": cohort.retain.subset(order[first::2][:EXAMINED])}


@cache
def _encoded(cohort: Cohort, setting: Setting) -> tuple[list[Encoded], dict[str, dict[str, Encoded]]]:
    """The forget set in both forms, and both halves of what is retained. `setting` is there for the cache: two
    cohorts are equal whose profile has been redefined."""
    halves = {which: half(cohort, which) for which in ("validation", "test")}
    return [cohort.encode(cohort.forget, form) for form in (1, 2)], {
        which: {name: cohort.encode(questions) for name, questions in sets.items()} for which, sets in halves.items()
    }


@cache
def _start(cohort: Cohort, setting: Setting, whose: str, pruner: str, sparsity: str) -> dict[str, float]:
    """Retention of a model as the experiment begins with it, by half."""
    model, _ = cohort.load(whose, pruner, sparsity)
    return {which: _retention(model, sets)[0] for which, sets in _encoded(cohort, setting)[1].items()}


def _retention(model: nn.Module, sets: dict[str, Encoded]) -> tuple[float, dict[str, float]]:
    parts = {name: probability(model, encoded) for name, encoded in sets.items()}
    return harmonic_mean(parts.values()), parts


def state(moving: dict[str, Tensor]) -> dict[str, Tensor]:
    """A copy of the parameters, by name."""
    return {name: parameter.detach().clone() for name, parameter in moving.items()}


class Judge:
    """Measures models of a cohort against the one that they began as: its target or oracle, pruned by a recipe."""

    def __init__(self, cohort: Cohort, pruner: str, sparsity: str, whose: str = "target"):
        (self.forget, self.forget_2), self._halves = _encoded(cohort, cohort.setting)
        self._start = _start(cohort, cohort.setting, whose, pruner, sparsity)

    def kept(self, model: nn.Module) -> float:
        """The share of the start's validation retention."""
        return _retention(model, self._halves["validation"])[0] / self._start["validation"]

    def look(self, model: nn.Module) -> dict[str, float]:
        """During a run: the forget set's probability, and "kept"."""
        return {"forget": probability(model, self.forget), "kept": self.kept(model)}

    def verdict(self, model: nn.Module) -> dict[str, float]:
        """After a run: the same on the test half, its parts, and the forget questions in their second form."""
        whole, parts = _retention(model, self._halves["test"])
        forget = {"forget": probability(model, self.forget), "forget_2": probability(model, self.forget_2)}
        return {**forget, **parts, "kept": whole / self._start["test"]}


def examine(model: nn.Module, cohort: Cohort, masks: Masks | None) -> dict:
    """TOFU's scores on the test half, truth ratios, answers, and the two stresses. Leaves the model as it was."""
    sets = {"forget": cohort.forget, **half(cohort, "test")}
    found = evaluation.evaluate(model, cohort.tokenizer, sets)
    forget, encoded = found["sets"]["forget"], cohort.encode(cohort.forget)
    unseen = cohort.encode(cohort.parts.holdout)
    predicted = evaluation.predicted_tokens(model, encoded)
    scores = [tofu.min_k(evaluation.token_logprobs(model, part), part.labels).tolist() for part in (encoded, unseen)]
    return {
        "utility": found["utility"],
        "rouge": fmean(forget["rouge"]),
        "truth_ratio": forget["truth_ratio"],
        "extraction": float(tofu.extraction_strength(predicted, encoded.labels).mean()),
        "min_k": scores,
        "answers": forget["generated"][:: len(cohort.forget) // 4],
        **stressed(model, cohort, masks),
    }


def stressed(model: nn.Module, cohort: Cohort, masks: Masks | None) -> dict:
    """ "relearnt": the probability of the other forget answers after each epoch of training on a tenth of them;
    "4-bit": that of all after a round trip through 4-bit weights."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    encoded = cohort.encode(cohort.forget)
    order = torch.randperm(len(encoded), generator=torch.Generator().manual_seed(cohort.seed))
    seen, others = encoded.subset(order[:RELEARNT]), encoded.subset(order[RELEARNT:])
    sizes = {"lr": RELEARN_LR, "epochs": RELEARN_EPOCHS, "seed": cohort.seed, "masks": masks}
    curve = stress.relearn(model, seen, lambda: probability(model, others), **sizes)
    model.load_state_dict(state)
    stress.round_trip_4bit(model)
    rounded = probability(model, encoded)
    model.load_state_dict(state)
    return {"relearnt": curve, "4-bit": rounded}


def compared(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` with "gap closed", and where truth ratios were taken "D" and "log10 p" against the oracle's, and
    "PrivLeak"; the oracle is that of the same seed, pruned alike."""
    keys = ["seed", "pruner", "sparsity"]
    alike = rows.assign(**{"pruner": rows.pruner.where(rows.kind != "E"), "sparsity": rows.sparsity})
    alike.loc[rows.kind == "E", ["pruner", "sparsity"]] = ["none", "0"]
    where = pd.MultiIndex.from_frame(alike[keys])
    target, oracle = (
        rows[rows.kind == whose].set_index(keys).loc[where].reset_index(drop=True) for whose in ("target", "oracle")
    )
    rows = rows.reset_index(drop=True)
    rows["gap closed"] = (target.forget - rows.forget) / (target.forget - oracle.forget)
    examined = rows.utility.notna()
    for index in rows.index[examined]:
        mine, theirs = rows.loc[index], oracle.loc[index]
        quality = tofu.forget_quality(mine.truth_ratio, theirs.truth_ratio)
        rows.loc[index, "D"] = quality[1]
        rows.loc[index, "log10 p"] = tofu.log10_p(quality[1], len(mine.truth_ratio))
        rows.loc[index, "PrivLeak"] = tofu.priv_leak(*mine.min_k, *theirs.min_k)
    return rows
