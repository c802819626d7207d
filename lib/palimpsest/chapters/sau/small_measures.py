"""What profiles `smoke` and `ci` measure of a model.

Retention is the harmonic mean of three mean answer probabilities: retained authors, real authors, world facts. Half
of the questions decide where a run is stopped (validation), the other half is what the verdict sees (test).
"""

from functools import cache, cached_property
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
def _asked(cohort: Cohort, which: str) -> tuple[Encoded, dict[str, slice]]:
    """The forget set and one half of what is retained in one batch of questions, and where each set lies in it."""
    sets, whole, places = {"forget": cohort.forget, **half(cohort, which)}, None, {}
    for name, questions in sets.items():
        first = 0 if whole is None else len(whole)
        whole = questions if whole is None else whole + questions
        places[name] = slice(first, len(whole))
    return cohort.encode(whole), places


def probabilities(cohort: Cohort, model: nn.Module, which: str) -> dict[str, float]:
    """Mean answer probabilities of the forget set and of a half's sets."""
    encoded, places = _asked(cohort, which)
    each = tofu.probability(evaluation.answer_losses(model, encoded))
    return {name: float(each[place].mean()) for name, place in places.items()}


def retention(found: dict[str, float]) -> float:
    """Their harmonic mean, the forget set's apart."""
    return harmonic_mean(value for name, value in found.items() if name != "forget")


@cache
def _start(cohort: Cohort, whose: str, pruner: str, sparsity: str, which: str) -> float:
    """Retention of a model as the experiment begins with it."""
    return retention(probabilities(cohort, cohort.load(whose, pruner, sparsity)[0], which))


class Judge:
    """Measures models of a cohort that are pruned by one recipe; see `cohort.Judge`."""

    def __init__(self, cohort: Cohort, pruner: str, sparsity: str):
        self.cohort, self.recipe = cohort, (pruner, sparsity)

    @cached_property
    def forget(self) -> Encoded:
        return self.cohort.encode(self.cohort.forget)

    def look(self, model: nn.Module) -> dict[str, float]:
        """ "kept" is the share of the target's retention, the harmonic mean of the three sets."""
        found = probabilities(self.cohort, model, "validation")
        start = _start(self.cohort, "target", *self.recipe, "validation")
        return {"forget": found["forget"], "kept": retention(found) / start}

    def measure(self, model: nn.Module, whose: str = "target") -> dict[str, float]:
        """Mean answer probabilities of the forget questions, of these in their second form, and of the test half's
        sets; "kept" is the share of the test retention of the model `whose`."""
        found = probabilities(self.cohort, model, "test")
        found["kept"] = retention(found) / _start(self.cohort, whose, *self.recipe, "test")
        found["forget_2"] = probability(model, self.cohort.encode(self.cohort.forget, 2))
        return found

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
