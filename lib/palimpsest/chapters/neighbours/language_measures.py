"""The stress tests in language, each a number for a model of the SAU chapter's small world."""

from functools import cache

import torch
from torch import nn

from palimpsest.chapters.neighbours.profiles import LANGUAGE
from palimpsest.chapters.sau.small import Cohort
from palimpsest.chapters.sau.small_measures import RELEARN_EPOCHS, RELEARN_LR, RELEARNT
from palimpsest.chapters.sau.weights import put, state
from palimpsest.chapters.shared.profiles import choose
from palimpsest.data import author_forms
from palimpsest.data.questions import Questions
from palimpsest.nets import language
from palimpsest.nets.language import IGNORED, Encoded
from palimpsest.nets.tokens import BARE, PROMPT
from palimpsest.pruning import Masks
from palimpsest.training import seeds
from palimpsest.unlearning.language import evaluation, in_context, stress, trace
from palimpsest.unlearning.language.evaluation import probability
from palimpsest.unlearning.language.inference import Intervened

TESTS = (*author_forms.TEMPLATES, "told", "relearnt", "written", "jaccard")
"""The columns of `stressed`: five forms, the answer shown in the prompt, a tenth learnt again, two traces."""
LONGEST = 160
"""Tokens of the longest prompt, which shows a question with its answer before another."""


def encode(cohort: Cohort, asked: list[str], answers: list[str], template: str | None = None) -> Encoded:
    return language.encode(cohort.tokenizer, asked, answers, LONGEST, template)


def part(cohort: Cohort) -> Questions:
    """The forget questions that are asked in all forms."""
    asked = choose(cohort.setting.name, LANGUAGE).asked
    return cohort.forget.subset(range(0, len(cohort.forget), asked))


@cache
def _forms(cohort: Cohort) -> dict[str, tuple[Encoded, int]]:
    """Of each form the answers, the right one of each question first, and how many there are of each."""
    found = {}
    for form, questions in author_forms.forms(part(cohort)).items():
        each = 1 + len(questions.perturbed[0])
        asked = [question for question in questions.question for _ in range(each)]
        pairs = zip(questions.answer, questions.perturbed, strict=True)
        said = [text for right, wrong in pairs for text in (right, *wrong)]
        found[form] = encode(cohort, asked, said, author_forms.TEMPLATES[form]), each
    return found


def answered(cohort: Cohort, model: nn.Module) -> dict[str, float]:
    """By form, the share of questions whose right answer is likelier, by token, than every wrong one."""
    return {
        form: float((evaluation.answer_losses(model, encoded).view(-1, each).argmin(1) == 0).float().mean())
        for form, (encoded, each) in _forms(cohort).items()
    }


@cache
def facts(cohort: Cohort) -> Encoded:
    """The forget answers cut before their fact: it is the answer, without an end, and what is before the prompt's."""
    values, prompts, told = author_forms.values(cohort.forget), [], []
    for question, answer, value in zip(cohort.forget.question, cohort.forget.answer, values, strict=True):
        start = answer[: answer.index(value)].strip()
        prompts.append(f"{PROMPT.format(question=question)} {start}".strip())
        told.append(value)
    whole = encode(cohort, prompts, told, BARE)
    return Encoded(whole.ids, whole.labels.masked_fill(whole.labels == cohort.tokenizer.eos_token_id, IGNORED))


@cache
def traced(cohort: Cohort, pruner: str, sparsity: str) -> trace.Trace:
    return trace.find(cohort.load("target", pruner, sparsity)[0], facts(cohort))


def stressed(cohort: Cohort, model: nn.Module, masks: Masks | None, recipe: tuple[str, str]) -> dict:
    """The columns of `TESTS`, and "other": the answer's probability where another one is shown. Leaves the model as
    it was. An intervention stays on while its weights are trained; its traces are those of the weights below it."""
    asked = part(cohort)

    def encoded(asked, answers, template):
        return encode(cohort, asked, answers, template)

    shown = in_context.reintroduced(model, asked.question, asked.question_2, asked.answer, encoded)
    weights = model.decoder.model if isinstance(model, Intervened) else model
    left = trace.left(weights, traced(cohort, *recipe))
    return answered(cohort, model) | shown | left | {"relearnt": relearnt(cohort, model, masks)}


def relearnt(cohort: Cohort, model: nn.Module, masks: Masks | None) -> float:
    """The probability of the other forget answers after training on a tenth of them, as in the SAU chapter."""
    forget = cohort.encode(cohort.forget)
    order = torch.randperm(len(forget), generator=seeds.generator(cohort.seed, "relearnt"))
    seen, others = forget.subset(order[:RELEARNT]), forget.subset(order[RELEARNT:])
    moving = dict(model.named_parameters())
    before = state(moving)
    drawn = seeds.derived(cohort.seed, "relearning")
    sizes = {"lr": RELEARN_LR, "epochs": RELEARN_EPOCHS, "seed": drawn, "masks": masks}
    stress.relearn(model, seen, lambda: 0.0, **sizes)
    found = probability(model, others)
    put(moving, before)
    return found
