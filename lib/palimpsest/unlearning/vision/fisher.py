"""The diagonal of the empirical Fisher information, network by network."""

import torch
from torch import Tensor

from palimpsest.nets.modes import evaluation
from palimpsest.nets.quantised import steps
from palimpsest.unlearning.vision.task import Gradients, Task, cross_entropy

BATCH = 32
"""Samples whose mean gradient is squared."""


def squared_gradients(task: Task, indices: Tensor) -> tuple[Gradients, Gradients]:
    """(mean gradient, mean squared gradient) of the cross-entropy over batches of `indices` [K, n].

    In evaluation mode and in stored order. The definition squares the gradient of every single sample, a backward
    pass each; as the code released with SSD and with Jia et al. 2023 does, we square those of mini-batches, of
    `BATCH`. The values then shrink with the batch, but not the ratio of two sets that were measured alike.
    """
    mean = [torch.zeros_like(p) for p in task.parameters]
    square = [torch.zeros_like(p) for p in task.parameters]
    batches = indices.T.split(BATCH)
    with evaluation(task.net), torch.enable_grad():  # methods call this where gradients are off
        for part in batches:
            found = task.gradients(cross_entropy(task.logits(task.images(part)), task.labels(part)))
            torch._foreach_add_(mean, found, alpha=len(part) / indices.shape[1])
            torch._foreach_addcmul_(square, found, found, value=1 / len(batches))
    return mean, square


def weights(task: Task) -> list[bool]:
    """For each of the task's parameters: is it a weight, and not the step size of a quantiser?

    A step is the unit in which codes are read. One-shot methods leave it alone: to shrink or push it would rescale
    a whole layer, and to push it below zero would end it.
    """
    units = {id(p) for p in steps(task.net).values()}
    return [id(p) not in units for p in task.parameters]
