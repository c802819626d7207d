"""The contract of an objective of unlearning, and the terms that objectives share."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from palimpsest.checks import require_number
from palimpsest.unlearning.language.task import Batch, Gradients, Task
from palimpsest.unlearning.language.update import Update


@dataclass(frozen=True)
class Objective:
    """γ·L_forget + α·L_retain, a frozen dataclass of hyperparameters; where α = 0 no retain sequence is passed.

    A subclass gives `forget_loss`; L_retain is the mean loss of a retain answer token unless it says otherwise. What
    both need of the model as it was given, they compute in `begin` and keep in `task.cache`.
    """

    gamma: float = 1.0
    alpha: float = 1.0

    needs_idk: ClassVar[bool] = False
    """Whether each forget sequence must come with an answer that is preferred to it."""

    def __post_init__(self):
        require_number("gamma", self.gamma)
        require_number("alpha", self.alpha, least=0)

    def setting(self, update: Update) -> Update:
        """Which weights move and how far, where the objective has a say in it."""
        return update

    def begin(self, task: Task) -> None:
        """Before the first update, also when a run is resumed, with the model as it was given."""

    def forget_loss(self, task: Task, batch: Batch) -> Tensor:
        """A scalar, in nats unless the method says otherwise."""
        raise NotImplementedError

    def retain_loss(self, task: Task, batch: Batch) -> Tensor:
        """A scalar."""
        return token_mean_loss(task, batch)

    def loss(self, task: Task, forget: Batch, retain: Batch) -> Tensor:
        """γ·L_forget + α·L_retain, a scalar; both parts are noted in the log."""
        forgotten = self.forget_loss(task, forget)
        total = self.gamma * forgotten
        task.note(forget=forgotten)
        if self.alpha:
            kept = self.retain_loss(task, retain)
            total = total + self.alpha * kept
            task.note(retain=kept)
        task.note(loss=total)
        return total

    def gradients(self, task: Task, forget: Batch, retain: Batch) -> Gradients:
        """What the step descends, before masks and clipping."""
        return task.gradients(self.loss(task, forget, retain))

    def finish(self, task: Task) -> None:
        """After the last update; `after_epoch` sees the model as this leaves it."""


def token_mean_loss(task: Task, batch: Batch) -> Tensor:
    """Mean loss of the batch's answer tokens, in nats, a scalar."""
    return -task.logprobs(batch).sum() / batch.counted.sum()


def sequence_loss(task: Task, batch: Batch) -> Tensor:
    """Summed loss of each answer, in nats, [B]."""
    return -task.logprobs(batch).sum(1)
