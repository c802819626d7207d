"""Q-MUL: similar labels and adaptive gradient reweighting (arXiv 2503.13917, ICCV 2025)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from palimpsest.nets.modes import evaluation
from palimpsest.unlearning.vision.labels import most_similar, random_wrong
from palimpsest.unlearning.vision.method import Method
from palimpsest.unlearning.vision.relabel import relabelled
from palimpsest.unlearning.vision.task import Task


@dataclass(frozen=True)
class QMul(Method):
    """Stated by the paper: similar labels, adaptive gradient reweighting. From the released code: the relabelling
    rule as intended, the norms' definition, both once per epoch, and the sequential schedule.

    labels: "similar" is Q-MUL, "random" replaces its labels by random wrong ones (RL + AGR).
    weights: "adaptive" is AGR; a number in (0, 1) is a constant weight of the forget set, with the retain set at
        one minus it; None weighs both by 1 (similar labels alone).
    official_quirks: do what the released code does where it departs from its intended rule: the distance
        compares a logit with a probability, the position found among the wrong classes is not mapped back (so that
        the true label can be given), labels are written in stored order to samples drawn in shuffled order, and
        the relabelling and norm passes run in training mode, which moves batch norm's running statistics.
    """

    labels: str = "similar"
    weights: str | float | None = "adaptive"
    official_quirks: bool = False

    def __post_init__(self):
        if self.labels not in ("similar", "random"):
            raise ValueError(f"labels: got {self.labels!r}, want 'similar' or 'random'")
        constant = isinstance(self.weights, float) and 0 < self.weights < 1
        if not (self.weights in ("adaptive", None) or constant):
            raise ValueError(f"weights: got {self.weights!r}, want 'adaptive', None or a float between 0 and 1")

    def epoch(self, task: Task, epoch: int) -> Iterator[None]:
        truth = task.labels(task.forget.T)
        wrong = random_wrong(task, truth, epoch) if self.labels == "random" else self.similar(task, truth, epoch)
        if self.weights == "adaptive":
            norm_f, norm_r = self.norms(task, epoch, wrong)
            forget_weight, retain_weight = norm_r / (norm_f + norm_r), norm_f / (norm_f + norm_r)
            task.record(epoch, norm_f=norm_f, norm_r=norm_r, weight_f=forget_weight, weight_r=retain_weight)
        else:
            forget_weight = 1.0 if self.weights is None else self.weights
            retain_weight = 1.0 if self.weights is None else 1 - self.weights
        for which in relabelled(task, epoch, wrong, forget_weight, retain_weight):
            if self.weights == "adaptive":  # w_f G_f and w_r G_r as they come out during the epoch
                task.record(epoch, **{f"weighted_{which}": task.norms([p.grad for p in task.parameters])})
            yield

    def similar(self, task: Task, truth: Tensor, epoch: int) -> Tensor:
        """[F, K] labels for the forget set, whose own are `truth`, from the current model."""
        images = task.images(task.forget.T)
        if not self.official_quirks:
            return most_similar(task.evaluate(images).softmax(-1), truth)
        parts = []
        with torch.no_grad():
            for part in images.split(task.batch_size):
                task.samples_forward += len(part)
                parts.append(task.net(part))  # in training mode: batch norm's statistics move
        logits = torch.cat(parts)
        own = logits.softmax(-1).gather(-1, truth[..., None])
        others = torch.ones_like(logits, dtype=torch.bool).scatter_(-1, truth[..., None], False)
        among_others = logits[others].view(*truth.shape, -1)
        labels = (among_others - own).abs().argmin(-1)  # a position among the wrong classes, taken for a class
        shuffles = [
            torch.randperm(len(labels), generator=task.generator(epoch, k, "quirk")) for k in range(task.networks)
        ]
        return labels.gather(0, torch.stack(shuffles, 1).to(labels.device))

    def norms(self, task: Task, epoch: int, wrong: Tensor) -> tuple[Tensor, Tensor]:
        """(G_f, G_r), each [K]: the mean over batches of Σ_t ‖∇_{θ_t} CE‖₂, a sum of norms tensor by tensor."""
        if self.official_quirks:
            return self._norms(task, epoch, wrong)
        with evaluation(task.net):
            return self._norms(task, epoch, wrong)

    def _norms(self, task: Task, epoch: int, wrong: Tensor) -> tuple[Tensor, Tensor]:
        found = {"forget": [], "retain": []}
        for which in relabelled(task, epoch, wrong):
            found[which].append(task.norms([p.grad for p in task.parameters]))
        for parameter in task.parameters:
            parameter.grad = None
        return tuple(torch.stack(values).mean(0) for values in found.values())
