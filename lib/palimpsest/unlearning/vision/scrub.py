"""SCRUB: disobey the teacher on the forget set, obey it elsewhere (Kurmanji et al. 2023, section 3)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from palimpsest.checks import require_count, require_number
from palimpsest.unlearning.vision.distillation import divergence, taught, teach
from palimpsest.unlearning.vision.method import Method
from palimpsest.unlearning.vision.task import Task, cross_entropy


@dataclass(frozen=True)
class Scrub(Method):
    """In each of the first `max_epochs` epochs max-steps over the forget set, each raising KL(original ‖ current);
    in every epoch min-steps over the retain set, each lowering α·KL(original ‖ current) + γ·CE.

    Stated by the paper: the losses and their alternation, and that min-steps come last. Released code: max-steps
    first, KL at temperature T times T², and for 10 epochs α = 0.5, γ = 1, T = 2, three epochs with max-steps and
    step size 5e-4. Our reading: these values; one batch size for both sets (the code tunes that of the forget set);
    the schedule and SGD of the protocol. The rewinding of SCRUB+R chooses among checkpoints and is left out.

    The KL and its gradient are zero where current and original agree: the first max-steps live on the difference
    between batch norm's statistics of the batch (current) and the running ones (original), as in the code.
    """

    alpha: float = 0.5
    gamma: float = 1.0
    max_epochs: int = 3
    temperature: float = 2.0

    grid = (1e-4, 5e-4, 2e-3, 1e-2, 5e-2, 2e-1)

    def __post_init__(self):
        for name in ("alpha", "gamma", "temperature"):
            require_number(name, getattr(self, name))
        require_count("max_epochs", self.max_epochs)

    def begin(self, task: Task) -> None:
        teach(task, [(torch.cat([task.forget, task.retain], 1), task.net)])

    def epoch(self, task: Task, epoch: int) -> Iterator[None]:
        if epoch < self.max_epochs:
            for batch in task.batches(task.forget, epoch):
                away = divergence(taught(task, batch), task.logits(task.images(batch)), self.temperature)
                task.descend(task.gradients(-away))
                yield
        for batch in task.retained(epoch):
            logits = task.logits(task.images(batch))
            near = divergence(taught(task, batch), logits, self.temperature)
            loss = self.alpha * near + self.gamma * cross_entropy(logits, task.labels(batch))
            task.descend(task.gradients(loss))
            yield
