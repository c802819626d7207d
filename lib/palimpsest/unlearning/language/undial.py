"""UNDIAL: learn from the model's own distribution with the answer's tokens lowered (Dong et al. 2024, 2402.10052)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from palimpsest.checks import require_number
from palimpsest.unlearning.language.method import Objective, answer_logits, given_logits, keep_given
from palimpsest.unlearning.language.task import Batch, Task


@dataclass(frozen=True)
class Undial(Objective):
    """Mean over forget answer tokens of the cross-entropy from softmax(z_ref − β·onehot(token)) to the model's
    distribution, z_ref the logits of the model as it was given.

    Stated by the paper: the loss. open-unlearning: β = 10, α = 0 (no retain sequence is seen), a step size of 1e-4.
    Its code also averages over prompt and padding, where the label −100 lowers the token V − 100; ours over answer
    tokens only.
    """

    alpha: float = 0.0
    beta: float = 10.0

    def __post_init__(self):
        super().__post_init__()
        require_number("beta", self.beta)

    def begin(self, task: Task) -> None:
        keep_given(task, "states", task.forget, torch.arange(len(task.forget)))

    def forget_loss(self, task: Task, batch: Batch) -> Tensor:
        teacher = given_logits(task, "states", batch)
        tokens = batch.encoded.labels[batch.counted][:, None]
        teacher = teacher.scatter_add(1, tokens, teacher.new_full(tokens.shape, -self.beta))
        return F.cross_entropy(answer_logits(task, batch), teacher.softmax(-1))
