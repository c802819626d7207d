"""Task-vector negation (Ilharco et al. 2023, arXiv 2212.04089, section 3)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from palimpsest.checks import require_number
from palimpsest.unlearning.language.method import Objective, token_mean_loss
from palimpsest.unlearning.language.task import Batch, Task


@dataclass(frozen=True)
class TaskVector(Objective):
    """Fine-tune on the forget set, then go the other way: θ = θ₀ − scale·(θ_tuned − θ₀). No retain sequence is seen.

    Stated by the paper: the negation; it chooses `scale` on held-out data. Our reading: 1, so that only the step size
    is tuned, as with the other methods. With LoRA it is the product B A that is negated.
    """

    alpha: float = 0.0
    scale: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        require_number("scale", self.scale)

    def begin(self, task: Task) -> None:
        task.cache |= {f"start.{name}": p.detach().clone() for name, p in task.parameters.items()}

    def forget_loss(self, task: Task, batch: Batch) -> Tensor:
        return token_mean_loss(task, batch)

    @torch.no_grad()
    def finish(self, task: Task) -> None:
        for name, parameter in task.parameters.items():
            if name.endswith("lora_A"):  # B starts at 0, so negating it negates B A
                continue
            start = task.cache[f"start.{name}"]
            parameter.copy_(start - self.scale * (parameter - start))
