"""NPO with sharpness-aware minimisation, against relearning (Fan et al. 2025, arXiv 2502.05374)."""

from dataclasses import dataclass

import torch

from palimpsest.checks import require_number
from palimpsest.unlearning.language.npo import NPO
from palimpsest.unlearning.language.task import Batch, Gradients, Task


@dataclass(frozen=True)
class SamNPO(NPO):
    """The forget part's gradient is taken at θ + ρ·g/‖g‖, g its gradient at θ: where NPO's loss is worst nearby, as
    after a few steps of relearning. The retain part's is taken at θ.

    Stated by the paper: the perturbation, of the forget part only. Released command for WMDP: ρ = 0.01. Our reading:
    pruned weights are not perturbed.
    """

    rho: float = 0.01

    def __post_init__(self):
        super().__post_init__()
        require_number("rho", self.rho)

    def gradients(self, task: Task, forget: Batch, retain: Batch) -> Gradients:
        ascent = task.masked(task.gradients(self.forget_loss(task, forget)))
        norm = torch.nn.utils.get_total_norm(ascent.values())
        before = {name: task.parameters[name].detach().clone() for name in ascent}
        try:
            with torch.no_grad():
                for name, g in ascent.items():
                    task.parameters[name].add_(g * (self.rho / norm.clamp(min=torch.finfo(g.dtype).tiny)))
            sharp = self.forget_loss(task, forget)
            found = task.gradients(self.gamma * sharp)
        finally:
            with torch.no_grad():
                for name, value in before.items():
                    task.parameters[name].copy_(value)
        total = self.gamma * sharp.detach()
        if self.alpha:
            kept = self.retain_loss(task, retain)
            total = total + self.alpha * kept.detach()
            task.note(retain=kept)
            flat = task.gradients(self.alpha * kept)
            found = {name: found.get(name, 0) + flat.get(name, 0) for name in found | flat}
        task.note(forget=sharp, loss=total)
        return found
