"""What is measured of SmolLM2-135M on TOFU: retention, the verdict's probabilities, TOFU's scores.

Retention is three means: the answer probability of retained authors, and as TOFU takes it the probability of the
right answer among wrong ones for real authors and world facts. A model has kept what it kept of the worst of them:
a gain in one set makes no room for a loss in another. Every second question decides where a run ends (`VALIDATION`),
the others are what the verdict sees (`TEST`).
"""

from statistics import fmean

from torch import nn

from palimpsest.chapters.sau.measures import state
from palimpsest.chapters.sau.real_cohort import MAX_LENGTH, Cohort, put, take
from palimpsest.data import tofu as tofu_data
from palimpsest.data.questions import Questions
from palimpsest.metrics import tofu
from palimpsest.nets import language
from palimpsest.nets.tokens import PROMPT
from palimpsest.unlearning.language import evaluation, stress
from palimpsest.unlearning.language.evaluation import probability

VALIDATION, TEST = 0, 1
MOST = 200
"""Tokens of an answer, as in TOFU (which counts the question too)."""
SHOWN = 4
"""Forget questions whose answers are recorded."""


def half(cohort: Cohort, which: int) -> dict[str, Questions]:
    """The sets of retention: even questions for VALIDATION, odd ones for TEST."""

    def part(questions: Questions, most: int | None) -> Questions:
        return questions.subset(range(which, len(questions), 2)[:most])

    facts = cohort.setting.facts
    real = {name: part(tofu_data.load(f"{name}_perturbed"), facts) for name in evaluation.CHOICE}
    return {"retain": part(cohort.examined, None), **real}


def retention(cohort: Cohort, model: nn.Module, which: int) -> dict[str, float]:
    """The mean of each set."""
    return {
        name: choice(cohort, model, q) if name in evaluation.CHOICE else probability(model, cohort.encode(q))
        for name, q in half(cohort, which).items()
    }


def kept(now: dict[str, float], start: dict[str, float]) -> float:
    """The share of `start` that is left in the set where it is smallest."""
    return min(now[name] / start[name] for name in start)


def choice(cohort: Cohort, model: nn.Module, questions: Questions) -> float:
    """Mean over questions of the right answer's probability as a share of those of all answers that TOFU gives."""

    def encode(asked, answers):
        return language.encode(cohort.tokenizer, asked, answers, MAX_LENGTH, PROMPT)

    right = evaluation.answer_losses(model, cohort.encode(questions))
    return float(tofu.choice_probability(right, evaluation.wrong_losses(model, questions, encode)).mean())


def verdict(cohort: Cohort, model: nn.Module, start: dict[str, float]) -> dict:
    """On the test half: the mean of each set, and the share "<set> kept" of `start`, that of the target pruned alike;
    "forget each" holds the probabilities of the forget answers one by one; "forget_2" asks in other words."""
    now = retention(cohort, model, TEST)
    each = tofu.probability(evaluation.answer_losses(model, cohort.encode(cohort.forget))).tolist()
    found = {"forget": fmean(each), "forget each": each}
    found["forget_2"] = probability(model, cohort.encode(cohort.forget, 2))
    return {**found, **now, **{f"{name} kept": now[name] / start[name] for name in now}}


def examine(cohort: Cohort, model: nn.Module) -> dict:
    """TOFU's scores on the test half, answers by question, Min-40 % of the forget set and of authors never seen, and
    the probability of the forget answers after a 4-bit round trip of the layers that train. Leaves the model as it
    was."""
    sets = {"forget": cohort.forget, **half(cohort, TEST)}
    found = evaluation.evaluate(model, cohort.tokenizer, sets, PROMPT, MOST)
    forget, encoded = found["sets"]["forget"], cohort.encode(cohort.forget)
    unseen = cohort.encode(take(cohort.setting.holdout))
    scores = [tofu.min_k(evaluation.token_logprobs(model, part), part.labels).tolist() for part in (encoded, unseen)]
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
