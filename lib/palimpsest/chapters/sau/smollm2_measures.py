"""What profiles `study` and `paper` measure of SmolLM2-135M on TOFU: retention, probabilities, TOFU's scores.

Retention is three means: the answer probability of retained authors, and as TOFU takes it the probability of the
right answer among wrong ones for real authors and world facts. A model has kept what it kept of the worst of them:
a gain in one set makes no room for a loss in another. Every second question decides where a run ends (validation),
the others are what the verdict sees (test).
"""

from functools import cached_property
from statistics import fmean

from torch import nn

from palimpsest.chapters.sau.smollm2 import MAX_LENGTH, Cohort, take
from palimpsest.chapters.sau.weights import put, state
from palimpsest.data import tofu as tofu_data
from palimpsest.data.questions import Questions
from palimpsest.metrics import tofu
from palimpsest.nets import language
from palimpsest.nets.tokens import PROMPT
from palimpsest.pruning import Masks
from palimpsest.unlearning.language import evaluation, stress
from palimpsest.unlearning.language.evaluation import probability

MOST = 200
"""Tokens of an answer, as in TOFU (which counts the question too)."""
SHOWN = 4
"""Forget questions whose answers are recorded."""


def half(cohort: Cohort, which: str) -> dict[str, Questions]:
    """The sets of retention: even questions are "validation", odd ones "test"."""
    first = 0 if which == "validation" else 1

    def part(questions: Questions, most: int | None) -> Questions:
        return questions.subset(range(first, len(questions), 2)[:most])

    facts = cohort.setting.facts
    real = {name: part(tofu_data.load(f"{name}_perturbed"), facts) for name in evaluation.CHOICE}
    return {"retain": part(cohort.examined, None), **real}


def retention(cohort: Cohort, model: nn.Module, which: str) -> dict[str, float]:
    """The mean of each set."""
    return {
        name: choice(cohort, model, q) if name in evaluation.CHOICE else probability(model, cohort.encode(q))
        for name, q in half(cohort, which).items()
    }


def choice(cohort: Cohort, model: nn.Module, questions: Questions) -> float:
    """Mean over questions of the right answer's probability as a share of those of all answers that TOFU gives."""

    def encode(asked, answers):
        return language.encode(cohort.tokenizer, asked, answers, MAX_LENGTH, PROMPT)

    right = evaluation.answer_losses(model, cohort.encode(questions))
    return float(tofu.choice_probability(right, evaluation.wrong_losses(model, questions, encode)).mean())


class Judge:
    """Measures models of a cohort that are pruned by one recipe; see `cohort.Judge`."""

    def __init__(self, cohort: Cohort, pruner: str, sparsity: str):
        self.cohort, self.recipe = cohort, (pruner, sparsity)

    def _start(self, which: str) -> dict[str, float]:
        return retention(self.cohort, self.cohort.load("target", *self.recipe)[0], which)

    @cached_property
    def _validation_start(self) -> dict[str, float]:
        return self._start("validation")

    @cached_property
    def _test_start(self) -> dict[str, float]:
        return self._start("test")

    def look(self, model: nn.Module) -> dict[str, float]:
        """ "kept" is the share of the target's in the set where it is smallest."""
        now, start = retention(self.cohort, model, "validation"), self._validation_start
        forget = probability(model, self.cohort.encode(self.cohort.forget))
        return {"forget": forget, "kept": min(now[name] / start[name] for name in start)}

    def measure(self, model: nn.Module, whose: str = "target") -> dict:
        """On the test half: the mean of each set, and the share "<set> kept" of the target's, whosever the model is;
        "forget each" holds the probabilities of the forget answers one by one; "forget_2" asks in other words."""
        cohort, now, start = self.cohort, retention(self.cohort, model, "test"), self._test_start
        each = tofu.probability(evaluation.answer_losses(model, cohort.encode(cohort.forget))).tolist()
        found = {"forget": fmean(each), "forget each": each}
        found["forget_2"] = probability(model, cohort.encode(cohort.forget, 2))
        return {**found, **now, **{f"{name} kept": now[name] / start[name] for name in now}}

    def examine(self, model: nn.Module, masks: Masks | None) -> dict:
        """TOFU's scores on the test half, answers by question, Min-40 % of the forget set and of authors never seen,
        and the probability of the forget answers after a 4-bit round trip of the layers that train. Leaves the model
        as it was."""
        cohort = self.cohort
        sets = {"forget": cohort.forget, **half(cohort, "test")}
        found = evaluation.evaluate(model, cohort.tokenizer, sets, PROMPT, MOST)
        forget, encoded = found["sets"]["forget"], cohort.encode(cohort.forget)
        unseen = cohort.encode(take(cohort.setting.holdout))
        scores = [
            tofu.min_k(evaluation.token_logprobs(model, part), part.labels).tolist() for part in (encoded, unseen)
        ]
        moving = cohort.moving(model)
        before = state(moving)
        stress.round_trip_4bit(model)
        rounded = probability(model, encoded)
        put(moving, before)
        answers = list(zip(cohort.forget.question, forget["generated"], strict=True))
        return {
            "utility": found["utility"],
            "scores": found["scores"],
            "rouge": fmean(forget["rouge"]),
            "truth_ratio": forget["truth_ratio"],
            "min_k": scores,
            "answers": dict(answers[:: max(1, len(answers) // SHOWN)]),
            "4-bit": rounded,
        }
