"""What methods with a teacher share. Samples are not augmented, so a frozen teacher answers each only once."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.unlearning.vision.task import Task


def teach(task: Task, lessons: list[tuple[Tensor, nn.Module]]) -> None:
    """Keep each teacher's logits on its samples, indices [K, n], in `task.memory`. One counted pass over them."""
    table = task.x.new_zeros(task.y.shape[1], task.networks, task.classes)
    for indices, teacher in lessons:
        for batch in indices.T.split(500):
            table[batch, _columns(task)] = task.evaluate(task.images(batch), teacher)
    task.memory["teacher"] = table


def taught(task: Task, batch: Tensor) -> Tensor:
    """The teacher's logits [B, K, classes] for indices [B, K]."""
    return task.memory["teacher"][batch, _columns(task)]


def divergence(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """T² times the mean over samples of KL(softmax(teacher / T) ‖ softmax(student / T)); [B, K, C] -> [K].

    The factor T² keeps the gradient's size when T changes (Hinton et al. 2015, section 2).
    """
    student, teacher = (student / temperature).log_softmax(-1), (teacher / temperature).log_softmax(-1)
    return temperature**2 * F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1).mean(0)


def _columns(task: Task) -> Tensor:
    return torch.arange(task.networks, device=task.x.device)
