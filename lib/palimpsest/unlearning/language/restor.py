"""RESTOR: does unlearning give back what wrong training has covered? (Rezaei et al. 2025, arXiv 2411.00204.)

Stated by the paper: a model that knows facts is trained on false ones about the same entities; an unlearning method
is then told to forget the false ones, and is judged by whether the true ones come back, as if the model had never met
the false. Many methods forget and do not restore. Our reading: questions with one wrong answer each for the false
training, and `restored` as the share of the way back.
"""

from dataclasses import replace

from torch import nn

from palimpsest.data.questions import Questions
from palimpsest.nets.language import Encoded
from palimpsest.unlearning.language.stress import relearn


def corrupted(questions: Questions) -> Questions:
    """The questions with their first wrong answer in the right one's place. ValueError where there is none."""
    if not all(questions.perturbed):
        raise ValueError("questions: got some without a wrong answer, want at least one each")
    wrong = [answers[0] for answers in questions.perturbed]
    return replace(questions, answer=wrong, paraphrased=wrong)


def corrupt(model: nn.Module, encoded: Encoded, *, lr: float, epochs: int, seed: int, masks=None) -> None:
    """Train `model`, in place, on false answers; pruned weights stay zero."""
    relearn(model, encoded, lambda: 0.0, lr=lr, epochs=epochs, seed=seed, masks=masks)


def restored(value: float, corrupt: float, clean: float) -> float:
    """The share of the way from the corrupt model's probability of the true answers to the clean model's."""
    return (value - corrupt) / (clean - corrupt)
