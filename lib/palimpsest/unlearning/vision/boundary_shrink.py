"""Boundary shrink: train the forget set on the nearest wrong class (Chen et al. 2023, CVPR)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from palimpsest.checks import require_number
from palimpsest.unlearning.vision.method import Method
from palimpsest.unlearning.vision.task import Task, cross_entropy


@dataclass(frozen=True)
class BoundaryShrink(Method):
    """Step across the nearest boundary of the original network, and take the class on the other side as the label.

    Stated by the paper: x' = x + ε sign(∇_x CE(x, y)), the nearest incorrect label is the prediction at x', and the
    forget set alone is fine-tuned on it. Released code: ε = 0.1 in pixels of [0, 1], x' clamped to the pixels' range
    and rounded to 256 levels, gradients and predictions of the original network in evaluation mode; momentum 0.9,
    step size 1e-5, 10 epochs. Our reading: each channel's range in the data given is [0, 1], since images come
    normalised; no rounding to levels; where the step crosses no boundary, the most probable *wrong* class at x' is
    taken, not the true one. The original never changes, so labels are found once.

    bound: ε, as a share of a channel's range.
    """

    bound: float = 0.1

    grid = (1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2)

    def __post_init__(self):
        require_number("bound", self.bound, most=1)

    def begin(self, task: Task) -> None:
        task.memory["nearest"] = self.nearest(task)

    def nearest(self, task: Task) -> Tensor:
        """[F, K] the wrong class nearest to each forget sample."""
        apart = task.x.flatten(3) if task.x.ndim > 3 else task.x[..., None]
        shape = (task.networks, -1, *[1] * (task.x.ndim - 3))
        low, high = apart.amin((1, 3)).view(shape), apart.amax((1, 3)).view(shape)
        found = []
        for batch in task.forget.T.split(500):
            images, truth = task.images(batch).requires_grad_(), task.labels(batch)
            loss = cross_entropy(task.original(images), truth).sum()
            (gradient,) = torch.autograd.grad(loss, images)
            with torch.no_grad():
                crossed = (images + self.bound * (high - low) * gradient.sign()).clamp(low, high)
                logits = task.original(crossed).scatter(-1, truth[..., None], -torch.inf)
            found.append(logits.argmax(-1))
            task.samples_forward += 2 * len(batch)
            task.samples_backward += len(batch)
        return torch.cat(found)

    def epoch(self, task: Task, epoch: int) -> Iterator[None]:
        labels = task.y.scatter(1, task.forget, task.memory["nearest"].T).T
        for batch in task.batches(task.forget, epoch):
            loss = cross_entropy(task.logits(task.images(batch)), labels.gather(0, batch))
            task.descend(task.gradients(loss))
            yield
