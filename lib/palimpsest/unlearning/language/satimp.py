"""SatImp: ascent weighted by saturation and importance of a token (Yang et al. 2025, arXiv 2505.11953)."""

from dataclasses import dataclass

from torch import Tensor

from palimpsest.checks import require_number
from palimpsest.unlearning.language.method import Objective
from palimpsest.unlearning.language.task import Batch, Task


@dataclass(frozen=True)
class SatImp(Objective):
    """Mean over forget answer tokens of p^β₁ (1 − p)^β₂ ln p, p the model's probability of the token, the weight
    without a gradient; plus α times the mean loss of a retain answer token.

    Stated by the paper: the weight. open-unlearning: β₁ = 5, β₂ = 1, γ = 0.1, α = 1.
    """

    gamma: float = 0.1
    beta1: float = 5.0
    beta2: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        require_number("beta1", self.beta1)
        require_number("beta2", self.beta2)

    def forget_loss(self, task: Task, batch: Batch) -> Tensor:
        values = task.logprobs(batch)
        before = values.detach()
        weight = (self.beta1 * before).exp() * (-before.expm1()).pow(self.beta2)
        return (weight * values).sum() / batch.counted.sum()
