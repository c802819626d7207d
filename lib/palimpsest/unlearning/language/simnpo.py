"""SimNPO: NPO without a reference model (Fan et al. 2024, arXiv 2410.07163)."""

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from palimpsest.checks import require_number
from palimpsest.unlearning.language.method import Objective, sequence_loss
from palimpsest.unlearning.language.task import Batch, Task


@dataclass(frozen=True)
class SimNPO(Objective):
    """−(2/β)·mean over sequences of ln σ(β(ℓ/|y| − δ)), ℓ the summed loss of an answer of |y| tokens; plus α times
    the mean loss of a retain answer token.

    Stated by the paper: the loss, whose margin γ is δ here. open-unlearning for TOFU: β = 4.5, δ = 0, weight 0.125
    of the forget part (γ) and 1 of the retain part.
    """

    gamma: float = 0.125
    beta: float = 4.5
    delta: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        require_number("beta", self.beta)
        require_number("delta", self.delta, above=-math.inf)

    def forget_loss(self, task: Task, batch: Batch) -> Tensor:
        mean = sequence_loss(task, batch) / batch.counted.sum(1)
        return -2 / self.beta * F.logsigmoid(self.beta * (mean - self.delta)).mean()
