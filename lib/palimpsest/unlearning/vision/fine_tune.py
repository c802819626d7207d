"""Fine-tuning: go on training on the retain set, and hope that the rest fades (Warnecke et al. 2023)."""

from collections.abc import Iterator
from dataclasses import dataclass

from palimpsest.unlearning.vision.method import Method
from palimpsest.unlearning.vision.task import Task, cross_entropy


@dataclass(frozen=True)
class FineTune(Method):
    """Cross-entropy on the retain set."""

    def epoch(self, task: Task, epoch: int) -> Iterator[None]:
        for batch in task.retained(epoch):
            task.descend(task.gradients(cross_entropy(task.logits(task.images(batch)), task.labels(batch))))
            yield
