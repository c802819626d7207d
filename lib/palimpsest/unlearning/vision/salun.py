"""SalUn: random labels, learned by the salient weights only (Fan et al. 2024, ICLR)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from palimpsest.checks import require_number
from palimpsest.nets.modes import evaluation
from palimpsest.unlearning.vision.labels import random_wrong
from palimpsest.unlearning.vision.method import Method
from palimpsest.unlearning.vision.relabel import relabelled
from palimpsest.unlearning.vision.task import Task, cross_entropy


@dataclass(frozen=True)
class SalUn(Method):
    """Random label on the `share` of the parameters whose gradient of the forget loss is largest in magnitude.

    Stated by the paper: the mask |∇ CE(forget; θ_o)| ≥ γ with γ the median, so that half of the weights are salient,
    and θ_u = m·(θ_o + Δθ) + (1 − m)·θ_o. Released code: gradients in evaluation mode, the mean ones of batches summed
    before the absolute value; one ranking over all tensors; labels drawn anew each epoch; all of the forget set, then
    all of the retain set; other weights put back to θ_o after each step (repaired in 2026: before, weight decay moved
    them). Its labels are drawn from all classes, the paper's from the wrong ones; we follow the paper, as for random
    label. Ours: gradients are summed over samples, as the loss of the whole forget set has it, so that a smaller last
    batch counts by its size; a quantiser's steps are ranked with all other parameters.

    fixed: as `RandomLabel.fixed`.
    """

    share: float = 0.5
    fixed: bool = False

    def __post_init__(self):
        require_number("share", self.share, most=1)

    def begin(self, task: Task) -> None:
        task.memory |= {f"salient.{i}": mask for i, mask in enumerate(self.masks(task))}

    def masks(self, task: Task) -> list[Tensor]:
        """For each parameter a bool tensor in its shape: is this weight salient in its own network?"""
        total = [torch.zeros_like(p) for p in task.parameters]
        with evaluation(task.net):
            for batch in task.forget.T.split(task.batch_size):
                loss = cross_entropy(task.logits(task.images(batch)), task.labels(batch))
                torch._foreach_add_(total, task.gradients(loss * len(batch)))
        magnitudes = torch.cat([task.split(g).flatten(1).abs() for g in total], 1)
        ranked = magnitudes.argsort(dim=1, descending=True, stable=True)
        salient = torch.zeros_like(magnitudes, dtype=torch.bool)
        salient.scatter_(1, ranked[:, : int(self.share * magnitudes.shape[1])], True)
        parts = salient.split([p.numel() // task.networks for p in task.parameters], 1)
        return [part.reshape(p.shape) for part, p in zip(parts, task.parameters, strict=True)]

    def epoch(self, task: Task, epoch: int) -> Iterator[None]:
        masks = [task.memory[f"salient.{i}"] for i in range(len(task.parameters))]
        held = [p.detach().clone() for p in task.parameters]  # where a weight is not salient, still the original
        wrong = random_wrong(task, task.labels(task.forget.T), 0 if self.fixed else epoch)
        for _ in relabelled(task, epoch, wrong):
            yield
            with torch.no_grad():
                for parameter, mask, original in zip(task.parameters, masks, held, strict=True):
                    parameter.copy_(torch.where(mask, parameter, original))
