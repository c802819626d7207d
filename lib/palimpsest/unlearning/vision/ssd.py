"""SSD: selective synaptic dampening (Foster et al. 2024, AAAI)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from palimpsest.checks import require_number
from palimpsest.unlearning.vision.fisher import squared_gradients, weights
from palimpsest.unlearning.vision.method import Method
from palimpsest.unlearning.vision.task import Task


def dampening(forget: Tensor, full: Tensor, alpha: Tensor | float, lam: float) -> Tensor:
    """The factor β of each weight, from its importance for the forget set and for all data, in their shape.

    Where I_f > α I_D: min(λ I_D / I_f, 1); 1 elsewhere (Foster et al. 2024, the two equations of section 3).
    """
    factor = (lam * full / forget).clamp(max=1)
    return torch.where(forget > alpha * full, factor, torch.ones_like(factor))


@dataclass(frozen=True)
class SSD(Method):
    """Dampen, once and without training, the weights that matter much more for the forget set than for all data.

    Stated by the paper: importance is the diagonal of the Fisher information; selection by α and dampening by λ as in
    `dampening`; α = 10 and λ = 1 for ResNet-18. Released code: squared gradients of mini-batches of 128 in evaluation
    mode, over all parameters, batch norm's included; the full set contains the forget set. Our reading: batches of
    32, nearer to the definition; a quantiser's step sizes stay as they are.

    lam: λ. α is the dial: a random forget set resembles the rest, and ratios near 10 are rare there.
    """

    lam: float = 1.0

    dial = "selection threshold α"
    grid = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)

    def __post_init__(self):
        require_number("lam", self.lam)

    @torch.no_grad()
    def begin(self, task: Task) -> None:
        everything = torch.arange(task.y.shape[1], device=task.y.device).expand_as(task.y)
        _, forget = squared_gradients(task, task.forget)
        _, full = squared_gradients(task, everything)
        for parameter, f, d, is_weight in zip(task.parameters, forget, full, weights(task), strict=True):
            if is_weight:
                parameter.mul_(dampening(f, d, task.spread(task.lr, parameter), self.lam))
