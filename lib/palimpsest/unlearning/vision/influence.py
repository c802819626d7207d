"""Influence unlearning: one step against the forget set's pull (Izzo et al. 2021; Jia et al. 2023)."""

from dataclasses import dataclass

import torch

from palimpsest.checks import require_number
from palimpsest.unlearning.vision.fisher import squared_gradients, weights
from palimpsest.unlearning.vision.method import Method
from palimpsest.unlearning.vision.task import Task


@dataclass(frozen=True)
class Influence(Method):
    """θ ← θ + α P g_f, with g_f the mean gradient of the forget loss and P an inverse of the retain set's curvature.

    Stated by Jia et al. 2023 ("IU"): the influence-function update with an inverse Hessian approximated by the
    empirical Fisher information, and α tuned by hand. Their code: WoodFisher's recursion over squared gradients of
    retain batches of 32, which begins with the identity and stays near it, so that α (1 to 20) counts plain
    gradients.

    Ours, and not theirs: the direction. Their code weighs g_f by the forget set's share n_f/N and subtracts the
    gradient of the retain loss; we take g_f alone, which is longer and points elsewhere, so that a value of α here is
    not one of theirs. Ours too: the Fisher's diagonal, P_i = (1 + d) F̄ / (F_i + d F̄) with F̄ the network's mean, so
    that a weight of mean curvature has P = 1. A quantiser's steps stay as they are.

    damping: d, in units of the mean.
    """

    damping: float = 0.1

    dial = "scale α"
    grid = (0.1, 0.3, 1.0, 3.0, 10.0, 20.0)

    def __post_init__(self):
        require_number("damping", self.damping)

    @torch.no_grad()
    def begin(self, task: Task) -> None:
        gradients, _ = squared_gradients(task, task.forget)
        _, fisher = squared_gradients(task, task.retain)
        rows = [row for row in zip(task.parameters, gradients, fisher, weights(task), strict=True) if row[3]]
        total = torch.stack([task.split(f).flatten(1).sum(1) for _, _, f, _ in rows]).sum(0)
        mean = total * task.networks / sum(f.numel() for _, _, f, _ in rows)
        mean = mean.clamp_min(torch.finfo(mean.dtype).tiny)  # where the loss has no gradient, nothing moves
        for parameter, g, f, _ in rows:
            typical = task.spread(mean, parameter)
            inverse = (1 + self.damping) * typical / (f + self.damping * typical)
            parameter.add_(task.spread(task.lr, parameter) * inverse * g)
