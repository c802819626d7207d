"""Q-MUL: similar labels and adaptive gradient reweighting (arXiv 2503.13917, ICCV 2025)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from palimpsest.checks import require_choice
from palimpsest.nets.modes import evaluation
from palimpsest.unlearning.vision.labels import most_similar, random_wrong
from palimpsest.unlearning.vision.method import Method
from palimpsest.unlearning.vision.relabel import relabelled, shuffled
from palimpsest.unlearning.vision.task import Task

QUIRKS = ("distance", "position", "order", "statistics")


@dataclass(frozen=True)
class QMul(Method):
    """Stated by the paper: similar labels, adaptive gradient reweighting. From the released code: the relabelling
    rule as intended, the norms' definition, both once per epoch, and the sequential schedule.

    labels: "similar" is Q-MUL, "random" replaces its labels by random wrong ones (RL + AGR).
    weights: "adaptive" is AGR; a number in (0, 1) is a constant weight of the forget set, with the retain set at
        one minus it; None weighs both by 1 (similar labels alone).
    schedule: "sequential", or "mixed", the code's shuffled union of both sets for CIFAR-100 and Tiny-ImageNet.
    fixed: keep the labels of the first epoch, as `RandomLabel.fixed`.
    official_quirks: do what the released code does where it departs from its intended rule: True for all, or some of
        "distance" (compares a logit with a probability), "position" (what is found among the wrong classes is not
        mapped back, so that the true label can be given), "order" (labels are written in stored order to samples
        drawn in shuffled order), and "statistics" (the relabelling and norm passes run in training mode, which moves
        batch norm's running statistics).
    """

    labels: str = "similar"
    weights: str | float | None = "adaptive"
    schedule: str = "sequential"
    fixed: bool = False
    official_quirks: bool | tuple[str, ...] = False

    def __post_init__(self):
        require_choice("labels", self.labels, ("similar", "random"))
        require_choice("schedule", self.schedule, ("sequential", "mixed"))
        if not isinstance(self.official_quirks, bool) and not set(self.official_quirks) <= set(QUIRKS):
            raise ValueError(f"official_quirks: got {self.official_quirks!r}, want True, False or some of {QUIRKS}")
        constant = isinstance(self.weights, float) and 0 < self.weights < 1
        if not (self.weights in ("adaptive", None) or constant):
            raise ValueError(f"weights: got {self.weights!r}, want 'adaptive', None or a float between 0 and 1")

    def epoch(self, task: Task, epoch: int) -> Iterator[None]:
        truth = task.labels(task.forget.T)
        wrong = self._labels(task, truth, epoch)
        if self.weights == "adaptive":
            norm_f, norm_r = self.norms(task, epoch, wrong)
            forget_weight, retain_weight = norm_r / (norm_f + norm_r), norm_f / (norm_f + norm_r)
            task.record(epoch, norm_f=norm_f, norm_r=norm_r, weight_f=forget_weight, weight_r=retain_weight)
        else:
            forget_weight = 1.0 if self.weights is None else self.weights
            retain_weight = 1.0 if self.weights is None else 1 - self.weights
        if self.schedule == "mixed":
            yield from shuffled(task, epoch, wrong, forget_weight, retain_weight)
            return
        for which in relabelled(task, epoch, wrong, forget_weight, retain_weight):
            if self.weights == "adaptive":  # w_f G_f and w_r G_r as they come out during the epoch
                task.record(epoch, **{f"weighted_{which}": task.norms([p.grad for p in task.parameters])})
            yield

    def _labels(self, task: Task, truth: Tensor, epoch: int) -> Tensor:
        """[F, K] labels for the forget set, whose own are `truth`."""
        if self.labels == "random":
            return random_wrong(task, truth, 0 if self.fixed else epoch)
        if not self.fixed:
            return self.similar(task, truth, epoch)
        if "labels" not in task.memory:
            task.memory["labels"] = self.similar(task, truth, epoch)
        return task.memory["labels"]

    def _quirk(self, name: str) -> bool:
        return self.official_quirks is True or (self.official_quirks and name in self.official_quirks)

    def similar(self, task: Task, truth: Tensor, epoch: int) -> Tensor:
        """[F, K] similar labels for the forget set, whose own are `truth`, from the current model."""
        images = task.images(task.forget.T)
        if not self.official_quirks:
            return most_similar(task.evaluate(images).softmax(-1), truth)
        logits = self._training_logits(task, images) if self._quirk("statistics") else task.evaluate(images)
        p = logits.softmax(-1)
        own = p.gather(-1, truth[..., None])
        distance = ((logits if self._quirk("distance") else p) - own).abs()
        if self._quirk("position"):  # among the wrong classes, taken for a class
            others = torch.ones_like(logits, dtype=torch.bool).scatter_(-1, truth[..., None], False)
            labels = distance[others].view(*truth.shape, -1).argmin(-1)
        else:
            labels = distance.scatter(-1, truth[..., None], torch.inf).argmin(-1)
        if not self._quirk("order"):
            return labels
        shuffles = [
            torch.randperm(len(labels), generator=task.generator(epoch, k, "quirk")) for k in range(task.networks)
        ]
        return labels.gather(0, torch.stack(shuffles, 1).to(labels.device))

    @torch.no_grad()
    def _training_logits(self, task: Task, images: Tensor) -> Tensor:
        """Logits in training mode: batch norm's statistics move."""
        parts = []
        for part in images.split(task.batch_size):
            task.samples_forward += len(part)
            parts.append(task.net(part))
        return torch.cat(parts)

    def norms(self, task: Task, epoch: int, wrong: Tensor) -> tuple[Tensor, Tensor]:
        """(G_f, G_r), each [K]: the mean over batches of Σ_t ‖∇_{θ_t} CE‖₂, a sum of norms tensor by tensor."""
        if self._quirk("statistics"):
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
