"""WGA: gradient ascent weighted by confidence (Wang et al. 2025, arXiv 2502.19301)."""

from dataclasses import dataclass

from torch import Tensor

from palimpsest.checks import require_number
from palimpsest.unlearning.language.method import Objective
from palimpsest.unlearning.language.task import Batch, Task


@dataclass(frozen=True)
class WGA(Objective):
    """Mean over forget answer tokens of p^β ln p, p the model's probability of the token, the weight p^β without a
    gradient; plus α times the mean loss of a retain answer token.

    Stated by the paper: the weight. open-unlearning: β = 1, γ = α = 1.
    """

    beta: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        require_number("beta", self.beta)

    def forget_loss(self, task: Task, batch: Batch) -> Tensor:
        values = task.logprobs(batch)
        return ((self.beta * values.detach()).exp() * values).sum() / batch.counted.sum()
