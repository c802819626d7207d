"""Labels that relabelling methods put on the forget set."""

import torch
from torch import Tensor

from palimpsest.unlearning.vision.task import Task


def random_wrong(task: Task, truth: Tensor, epoch: int, turn: int = 0) -> Tensor:
    """For each label of truth [n, K] a class drawn evenly from the others; `turn` tells two draws apart."""
    shifts = [
        torch.randint(1, task.classes, (len(truth),), generator=task.generator(epoch, k, "labels", turn))
        for k in range(task.networks)
    ]
    return (truth + torch.stack(shifts, 1).to(truth.device)) % task.classes


def most_similar(probabilities: Tensor, truth: Tensor) -> Tensor:
    """The wrong class whose probability is nearest to the true class's: argmin_{k≠y} |p_k − p_y|.

    probabilities [..., C], truth [...] -> [...]. Q-MUL, the rule that its code intends (papers name it "similar
    labels"): where the true class is the most probable one, this is the runner-up.
    """
    own = probabilities.gather(-1, truth[..., None])
    distance = (probabilities - own).abs().scatter(-1, truth[..., None], torch.inf)
    return distance.argmin(-1)
