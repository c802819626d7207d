"""Gradient ascent on the answers to forget (Jang et al. 2023, arXiv 2210.01504)."""

from dataclasses import dataclass

from torch import Tensor

from palimpsest.unlearning.language.method import Objective, token_mean_loss
from palimpsest.unlearning.language.task import Batch, Task


@dataclass(frozen=True)
class GradAscent(Objective):
    """Minus the mean loss of a forget answer token, as in open-unlearning; no retain sequence is seen (α = 0)."""

    alpha: float = 0.0

    def forget_loss(self, task: Task, batch: Batch) -> Tensor:
        return -token_mean_loss(task, batch)
