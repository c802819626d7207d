"""OEU: orthogonal entropy unlearning (arXiv 2602.00567), re-implemented from the abstract.

Stated by the paper: maximise the predictive entropy on forgotten data; project the forgetting gradient onto the
orthogonal complement of the retain gradient. Everything else here is our reading, and each open point an option.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from palimpsest.checks import require_choice, require_number
from palimpsest.kernels import softmax_entropy
from palimpsest.nets.quantised import steps
from palimpsest.unlearning.vision.labels import random_wrong
from palimpsest.unlearning.vision.method import Method
from palimpsest.unlearning.vision.task import Gradients, Task, cross_entropy

CHOICES = {
    "loss": ("entropy", "uniform", "random-label"),
    "direction": ("orthogonal", "none", "pcgrad", "random"),
    "mode": ("always", "conflict"),
    "scope": ("model", "layer"),
    "against": ("batch", "ema", "basis"),
}
EMA, BASIS = 0.9, 4


@dataclass(frozen=True)
class OEU(Method):
    """θ ← θ − η (g_r + λ g_f⊥), with g_f the gradient of the forget loss and g_r that of the retain loss.

    lam: λ, the weight of the forget part.
    loss: "entropy" is −H(p); "uniform" is KL(U‖p), whose gradient p − 1/C does not vanish on memorised samples;
        "random-label" is cross-entropy on random wrong labels (projection without entropy). KL(p‖U) = ln C − H(p)
        has the gradient of "entropy" and is no option of its own.
    direction: "orthogonal" is OEU; "none" leaves g_f as it is (entropy without projection). Controls: "pcgrad"
        projects *each* of the two gradients off the other where they conflict (Yu et al. 2020); "random" removes
        from g_f its part along a random direction in place of g_r: as much arithmetic, without the geometry.
    mode, scope: as `kernels.project_orthogonal` takes them: always or on conflict, whole model or tensor by tensor.
    against: project off the retain gradient of this "batch", of an "ema" over batches (decay 0.9), or off the
        span of the last 4 (a Gram–Schmidt "basis").
    project_steps: False leaves the quantiser's step sizes out of both gradients when projecting; they get the sum.
    keep_statistics: the forget pass does not move batch norm's running statistics.
    """

    lam: float = 1.0
    loss: str = "entropy"
    direction: str = "orthogonal"
    mode: str = "always"
    scope: str = "model"
    against: str = "batch"
    project_steps: bool = True
    keep_statistics: bool = True

    def __post_init__(self):
        require_number("lam", self.lam)
        for name, allowed in CHOICES.items():
            require_choice(name, getattr(self, name), allowed)

    def epoch(self, task: Task, epoch: int) -> Iterator[None]:
        for step, (forget, retain) in enumerate(task.paired(epoch)):
            g_r = task.gradients(cross_entropy(task.logits(task.images(retain)), task.labels(retain)))
            if forget is None:
                task.descend(g_r)
                yield
                continue
            g_f = task.gradients(self._forget_loss(task, forget, epoch, step))
            task.record(
                epoch, dot=task.dot(g_f, g_r), norm_f=task.dot(g_f, g_f).sqrt(), norm_r=task.dot(g_r, g_r).sqrt()
            )
            task.descend(self.combine(task, g_f, g_r, epoch, step))
            yield

    def _forget_loss(self, task: Task, batch: Tensor, epoch: int, step: int) -> Tensor:
        logits = task.logits(task.images(batch), keep_statistics=self.keep_statistics)
        if self.loss == "random-label":
            return cross_entropy(logits, random_wrong(task, task.labels(batch), epoch, step))
        if self.loss == "uniform":
            return -logits.log_softmax(-1).mean((0, 2)) - math.log(task.classes)
        return -softmax_entropy(logits.flatten(0, 1)).view(batch.shape).mean(0)

    def combine(self, task: Task, g_f: Gradients, g_r: Gradients, epoch: int, step: int) -> Gradients:
        """The gradient that descends: g_r + λ g_f⊥, or what the chosen control puts in its place."""
        if self.project_steps:
            return self._combine(task, g_f, g_r, epoch, step)
        own = {id(p) for p in steps(task.net).values()}
        inside = [id(p) not in own for p in task.parameters]
        f, r = ([g for g, within in zip(gradients, inside, strict=True) if within] for gradients in (g_f, g_r))
        combined = iter(self._combine(task, f, r, epoch, step))
        rows = zip(g_f, g_r, inside, strict=True)
        return [next(combined) if within else r + self.lam * f for f, r, within in rows]

    def _combine(self, task: Task, g_f: Gradients, g_r: Gradients, epoch: int, step: int) -> Gradients:
        if self.direction == "orthogonal" and self.against == "batch":
            return task.projected(g_f, g_r, self.lam, self.mode, self.scope)
        if self.direction == "pcgrad":
            forget_part = task.projected(g_f, g_r, 1.0, "conflict", self.scope)  # g_r + (g_f off g_r)
            retain_part = task.projected(g_r, g_f, 1.0, "conflict", self.scope)  # g_f + (g_r off g_f)
            pairs = zip(forget_part, retain_part, g_f, g_r, strict=True)
            return [(b - f) + self.lam * (a - r) for a, b, f, r in pairs]
        left = g_f
        for reference in self._references(task, g_r, epoch, step):
            moved = task.projected(left, reference, 1.0, self.mode, self.scope)
            left = [m - r for m, r in zip(moved, reference, strict=True)]
        return [r + self.lam * f for f, r in zip(left, g_r, strict=True)]

    def _references(self, task: Task, g_r: Gradients, epoch: int, step: int) -> list[Gradients]:
        """What g_f is projected off, one after another: nothing, one direction, or an orthonormal basis."""
        if self.direction == "none":
            return []
        if self.direction == "random":
            return [self._random_direction(task, g_r, epoch, step)]
        if self.against == "ema":
            for i, r in enumerate(g_r):
                before = task.memory.get(f"ema.{i}")
                task.memory[f"ema.{i}"] = r.clone() if before is None else EMA * before + (1 - EMA) * r
            return [[task.memory[f"ema.{i}"] for i in range(len(g_r))]]
        return self._basis(task, g_r)

    def _random_direction(self, task: Task, g_r: Gradients, epoch: int, step: int) -> Gradients:
        generators = [task.generator(epoch, k, "direction", step) for k in range(task.networks)]
        return [
            torch.cat(
                [torch.randn(task.split(r)[k].shape, generator=g, dtype=r.dtype) for k, g in enumerate(generators)]
            )
            .view(r.shape)
            .to(r.device)
            for r in g_r
        ]

    def _basis(self, task: Task, g_r: Gradients) -> list[Gradients]:
        """Gram–Schmidt over the retain gradients of the last 4 steps, the newest first; each of norm 1."""
        held = int(task.memory.get("held", torch.tensor(0)))
        recent = [g_r] + [[task.memory[f"{j}.{i}"] for i in range(len(g_r))] for j in range(held)]
        for j, gradients in enumerate(recent[:BASIS]):
            task.memory |= {f"{j}.{i}": g.clone() for i, g in enumerate(gradients)}
        task.memory["held"] = torch.tensor(min(len(recent), BASIS))
        basis: list[Gradients] = []
        for gradients in recent[:BASIS]:
            for unit in basis:
                shares = task.scaled(unit, task.dot(gradients, unit))
                gradients = [g - s for g, s in zip(gradients, shares, strict=True)]
            length = task.dot(gradients, gradients).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
            basis.append(task.scaled(gradients, 1 / length))
        return basis
