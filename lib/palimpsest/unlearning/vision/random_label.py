"""Random label (Golatkar et al. 2020): train the forget set on labels drawn at random, the rest on its own."""

from collections.abc import Iterator
from dataclasses import dataclass

from palimpsest.unlearning.vision.labels import random_wrong
from palimpsest.unlearning.vision.method import Method
from palimpsest.unlearning.vision.relabel import relabelled
from palimpsest.unlearning.vision.task import Task


@dataclass(frozen=True)
class RandomLabel(Method):
    """Wrong labels, drawn anew in each epoch. The input dropout that Q-MUL's code adds to its own copy of this
    baseline, and that SalUn's does not have, is left out.

    fixed: keep the labels of the first epoch, so that what was injected can be looked for afterwards.
    """

    fixed: bool = False

    def epoch(self, task: Task, epoch: int) -> Iterator[None]:
        wrong = random_wrong(task, task.labels(task.forget.T), 0 if self.fixed else epoch)
        for _ in relabelled(task, epoch, wrong):
            yield
