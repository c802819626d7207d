"""Gradient ascent: raise the loss on the forget set (Graves et al. 2021; Thudi et al. 2022, "Unrolling SGD")."""

from collections.abc import Iterator
from dataclasses import dataclass

from palimpsest.unlearning.vision.method import Method
from palimpsest.unlearning.vision.task import Task, cross_entropy


@dataclass(frozen=True)
class GradientAscent(Method):
    """Minus the cross-entropy of forget batches, in training mode, as in the code released by Jia et al. 2023 and
    Fan et al. 2024. No retain sample is seen.

    The loss has no floor, so published step sizes are small: 1e-4 in the commands of Fan et al., who run 5 epochs.
    The grid goes from a tenth of it to a thousand times it, because few steps are made here.
    """

    grid = (1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1)

    def epoch(self, task: Task, epoch: int) -> Iterator[None]:
        for batch in task.batches(task.forget, epoch):
            task.descend(task.gradients(-cross_entropy(task.logits(task.images(batch)), task.labels(batch))))
            yield
