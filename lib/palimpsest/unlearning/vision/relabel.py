"""The loop that relabelling methods share: wrong labels on the forget set, true ones on the retain set."""

from collections.abc import Iterator

import torch
from torch import Tensor

from palimpsest.unlearning.vision.task import Task, cross_entropy


def relabelled(
    task: Task, epoch: int, wrong: Tensor, forget_weight: Tensor | float = 1.0, retain_weight: Tensor | float = 1.0
) -> Iterator[str]:
    """All of the forget set with labels `wrong` [F, K], then all of the retain set; weights are [K] or one number.

    The schedule "sequential" of the code released with Q-MUL. Sets the gradients of each step and yields
    "forget" or "retain".
    """
    position = torch.empty_like(task.y)
    position.scatter_(
        1, task.forget, torch.arange(task.forget.shape[1], device=position.device).expand_as(task.forget)
    )
    columns = torch.arange(task.networks, device=wrong.device)
    for batch in task.batches(task.forget, epoch):
        labels = wrong[position[columns, batch], columns]
        loss = cross_entropy(task.logits(task.images(batch)), labels)
        task.descend(task.gradients(forget_weight * loss))
        yield "forget"
    for batch in task.batches(task.retain, epoch):
        loss = cross_entropy(task.logits(task.images(batch)), task.labels(batch))
        task.descend(task.gradients(retain_weight * loss))
        yield "retain"
