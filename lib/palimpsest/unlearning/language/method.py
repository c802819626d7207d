"""The contract of an objective of unlearning, and the terms that objectives share."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from palimpsest.checks import require_number
from palimpsest.nets import language
from palimpsest.nets.language import Encoded
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


def answer_logits(task: Task, batch: Batch) -> Tensor:
    """The model's logits where the batch's answer tokens are predicted, [tokens, V], row after row."""
    return F.linear(task.hidden(batch)[batch.counted], language.output_embedding(task.model))


@torch.no_grad()
def keep_given(task: Task, name: str, encoded: Encoded, rows: Tensor) -> None:
    """Keep, under `name`, what `given_logits` needs of these rows; for `begin`.

    That is hidden states in place of logits: D numbers per token and not V.
    """
    for part in rows.split(task.batch_size):
        batch = task.batch(encoded, part)
        for row, own, counted in zip(part.tolist(), task.hidden(batch), batch.counted, strict=True):
            task.cache[f"{name}.{row}"] = own[counted]
    task.cache["embedding"] = language.output_embedding(task.model).detach().clone()


def given_logits(task: Task, name: str, batch: Batch) -> Tensor:
    """`answer_logits` of the model as it was given, for rows that were kept under `name`."""
    return F.linear(torch.cat([task.cache[f"{name}.{row}"] for row in batch.rows.tolist()]), task.cache["embedding"])
