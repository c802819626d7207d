"""What profiles `smoke` and `ci` measure of a model.

Retention is the harmonic mean of three mean answer probabilities: retained authors, real authors, world facts. Half
of the questions decide where a run is stopped (validation), the other half is what the verdict sees (test).
"""

from functools import cache
from statistics import fmean, harmonic_mean

import torch
from torch import nn

from palimpsest.chapters.sau.small import Cohort
from palimpsest.chapters.sau.weights import put, state
from palimpsest.data import authors
from palimpsest.data.questions import Questions
from palimpsest.metrics import tofu
from palimpsest.nets.language import Encoded
from palimpsest.pruning import Masks
from palimpsest.training import seeds
from palimpsest.unlearning.language import evaluation, stress
from palimpsest.unlearning.language.evaluation import probability

EXAMINED = 32
"""Retained questions in each half."""
RELEARNT, RELEARN_EPOCHS, RELEARN_LR = 5, 5, 3e-4


def half(cohort: Cohort, which: str) -> dict[str, Questions]:
    """The sets of retention: even questions are "validation", odd ones "test"."""
    first = 0 if which == "validation" else 1
    sets = {"retain": cohort.retain, **{name: authors.load(name) for name in evaluation.CHOICE}}
    order = torch.randperm(len(cohort.retain), generator=seeds.generator(cohort.seed, "halves")).tolist()
    found = {name: questions.subset(range(first, len(questions), 2)) for name, questions in sets.items()}
    return found | {"retain": cohort.retain.subset(order[first::2][:EXAMINED])}


@cache
def _encoded(cohort: Cohort) -> tuple[list[Encoded], dict[str, dict[str, Encoded]]]:
    """The forget set in both forms, and both halves of what is retained."""
    halves = {which: half(cohort, which) for which in ("validation", "test")}
    return [cohort.encode(cohort.forget, form) for form in (1, 2)], {
        which: {name: cohort.encode(questions) for name, questions in sets.items()} for which, sets in halves.items()
    }


@cache
def _start(cohort: Cohort, whose: str, pruner: str, sparsity: str) -> dict[str, float]:
    """Retention of a model as the experiment begins with it, by half."""
    model, _ = cohort.load(whose, pruner, sparsity)
    return {which: _retention(model, sets)[0] for which, sets in _encoded(cohort)[1].items()}


def _retention(model: nn.Module, sets: dict[str, Encoded]) -> tuple[float, dict[str, float]]:
    parts = {name: probability(model, encoded) for name, encoded in sets.items()}
    return harmonic_mean(parts.values()), parts


class Judge:
    """Measures models of a cohort that are pruned by one recipe; see `cohort.Judge`."""

    def __init__(self, cohort: Cohort, pruner: str, sparsity: str):
        self.cohort, self.recipe = cohort, (pruner, sparsity)
        (self.forget, self.forget_2), self._halves = _encoded(cohort)

    def kept(self, model: nn.Module) -> float:
        """The share of the target's validation retention, the harmonic mean of the three sets."""
        now, _ = _retention(model, self._halves["validation"])
        return now / _start(self.cohort, "target", *self.recipe)["validation"]

    def look(self, model: nn.Module, kept: float) -> dict[str, float]:
        """The forget set's probability, and "kept"."""
        return {"forget": probability(model, self.forget), "kept": kept}

    def course(self, looks: list[dict[str, float]], taken: float) -> dict:
        """ "course": the looks."""
        return {"course": looks}

    def measure(self, model: nn.Module, whose: str = "target") -> dict[str, float]:
        """Mean answer probabilities of the forget questions, of these in their second form, and of the test half's
        sets; "kept" is the share of the test retention of the model `whose`."""
        whole, parts = _retention(model, self._halves["test"])
        forget = {"forget": probability(model, self.forget), "forget_2": probability(model, self.forget_2)}
        return {**forget, **parts, "kept": whole / _start(self.cohort, whose, *self.recipe)["test"]}

    def examine(self, model: nn.Module, masks: Masks | None) -> dict:
        """TOFU's scores on the test half, truth ratios, answers, and the two stresses. Leaves the model as it was."""
        cohort = self.cohort
        sets = {"forget": cohort.forget, **half(cohort, "test")}
        found = evaluation.evaluate(model, cohort.tokenizer, sets)
        forget, unseen = found["sets"]["forget"], cohort.encode(cohort.parts.holdout)
        predicted = evaluation.predicted_tokens(model, self.forget)
        scores = [
            tofu.min_k(evaluation.token_logprobs(model, part), part.labels).tolist() for part in (self.forget, unseen)
        ]
        return {
            "utility": found["utility"],
            "rouge": fmean(forget["rouge"]),
            "truth_ratio": forget["truth_ratio"],
            "extraction": float(tofu.extraction_strength(predicted, self.forget.labels).mean()),
            "min_k": scores,
            "answers": forget["generated"][:: len(cohort.forget) // 4],
            **self.stressed(model, masks),
        }

    def stressed(self, model: nn.Module, masks: Masks | None) -> dict:
        """ "relearnt": the probability of the other forget answers after each epoch of training on a tenth of them;
        "4-bit": that of all after a round trip through 4-bit weights."""
        moving, seed = self.cohort.moving(model), self.cohort.seed
        before = state(moving)
        order = torch.randperm(len(self.forget), generator=seeds.generator(seed, "relearnt"))
        seen, others = self.forget.subset(order[:RELEARNT]), self.forget.subset(order[RELEARNT:])
        sizes = {
            "lr": RELEARN_LR,
            "epochs": RELEARN_EPOCHS,
            "seed": seeds.derived(seed, "relearning"),
            "masks": masks,
        }
        curve = stress.relearn(model, seen, lambda: probability(model, others), **sizes)
        put(moving, before)
        stress.round_trip_4bit(model)
        rounded = probability(model, self.forget)
        put(moving, before)
        return {"relearnt": curve, "4-bit": rounded}
