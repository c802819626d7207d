"""Ununlearning: what was unlearned is told again in the prompt (Shumailov et al. 2024, arXiv 2407.00106).

Stated by the paper: a model that lacks knowledge, exactly unlearned models too, behaves as if it had it once the
knowledge stands in its context. It measures nothing; the test is ours: the probability of the right answer after a
prompt that shows it, beside the same prompt with another answer shown.
"""

from collections.abc import Callable, Sequence

from torch import nn

from palimpsest.nets.language import Encoded
from palimpsest.nets.tokens import BARE, PROMPT
from palimpsest.unlearning.language.evaluation import probability

Encode = Callable[[Sequence[str], Sequence[str], str], Encoded]
"""(prompts, answers, template) -> sequences."""


def shown(told: str, answer: str, question: str) -> str:
    """A prompt in which `told` has been asked and answered, and now `question` is asked."""
    return f"{PROMPT.format(question=told)} {answer}\n{PROMPT.format(question=question)}"


def reintroduced(
    model: nn.Module, questions: Sequence[str], told: Sequence[str], answers: Sequence[str], encode: Encode
) -> dict[str, float]:
    """Mean probability of the answers: "told" where each is shown after `told`, the question in other words; "other"
    where the answer that is shown is that of the question half the set away, in that question's words."""
    half = len(questions) // 2
    pairs = list(zip(told, answers, strict=True))
    others = pairs[half:] + pairs[:half]
    prompts = {
        which: [shown(*pair, question) for pair, question in zip(context, questions, strict=True)]
        for which, context in (("told", pairs), ("other", others))
    }
    return {which: probability(model, encode(asked, answers, BARE)) for which, asked in prompts.items()}
