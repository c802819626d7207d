"""The loop that relabelling methods share: wrong labels on the forget set, true ones on the retain set."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from palimpsest.unlearning.vision.task import Task, cross_entropy


def relabelled(
    task: Task,
    epoch: int,
    wrong: Tensor,
    forget_weight: Tensor | float = 1.0,
    retain_weight: Tensor | float = 1.0,
) -> Iterator[str]:
    """All of the forget set with labels `wrong` [F, K], then the epoch's retain samples; weights are [K] or one
    number.

    The schedule "sequential" of the code released with Q-MUL. Sets the gradients of each step and yields
    "forget" or "retain".
    """
    labels = injected(task, wrong)
    for batch in task.batches(task.forget, epoch):
        loss = cross_entropy(task.logits(task.images(batch)), labels(batch))
        task.descend(task.gradients(forget_weight * loss))
        yield "forget"
    for batch in task.retained(epoch):
        loss = cross_entropy(task.logits(task.images(batch)), task.labels(batch))
        task.descend(task.gradients(retain_weight * loss))
        yield "retain"


def shuffled(
    task: Task, epoch: int, wrong: Tensor, forget_weight: Tensor | float, retain_weight: Tensor | float
) -> Iterator[None]:
    """The forget set with labels `wrong` [F, K] and the epoch's retain samples in one shuffled order, each sample's
    loss times the weight of its set: the schedule of the code released with Q-MUL for CIFAR-100 and Tiny-ImageNet."""
    labels = injected(task, wrong)
    is_forget = torch.zeros_like(task.y, dtype=torch.bool).scatter_(1, task.forget, True)
    columns = torch.arange(task.networks, device=wrong.device)
    both = torch.cat([task.forget, torch.cat(list(task.retained(epoch))).T], 1)
    for batch in task.batches(both, epoch):
        forgets = is_forget[columns, batch]
        logits, targets = task.logits(task.images(batch)), torch.where(forgets, labels(batch), task.labels(batch))
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        task.descend(task.gradients((losses * torch.where(forgets, forget_weight, retain_weight)).mean(0)))
        yield


def injected(task: Task, wrong: Tensor):
    """A function from index batches [B, K] to labels [B, K]: `wrong` [F, K] on the forget set, 0 elsewhere."""
    columns = torch.arange(task.networks, device=wrong.device)
    labels = torch.zeros_like(task.y).scatter_(1, task.forget, wrong.T)
    return lambda batch: labels[columns, batch]
