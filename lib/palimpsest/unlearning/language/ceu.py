"""CE-U: cross-entropy unlearning (Yang 2025, arXiv 2503.01224)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from palimpsest.unlearning.language.method import Objective, answer_logits
from palimpsest.unlearning.language.task import Batch, Task


@dataclass(frozen=True)
class CEU(Objective):
    """Mean over forget answer tokens of the cross-entropy from softmax(z with −∞ at the token) to softmax(z), z the
    model's logits, the former without a gradient. An answer's first token is left out.

    The gradient in z is p at the token and −p·p_token / (1 − p_token) elsewhere: whole where the model is sure of
    the token, where that of ascent vanishes, and fading as the token is forgotten, where that of ascent does not.

    Stated by the paper: the loss, no retain set, and, in a footnote to its training settings, the first token that is
    left out. open-unlearning: the same, with the number of such tokens as a parameter, 1. Our reading: the only
    token of an answer of one is kept.
    """

    alpha: float = 0.0

    def forget_loss(self, task: Task, batch: Batch) -> Tensor:
        counted = batch.counted
        taken = (counted.cumsum(1) > 1) | (counted.sum(1, keepdim=True) == 1)
        logits = answer_logits(task, batch)[taken[counted]]
        tokens = batch.encoded.labels[counted & taken][:, None]
        target = logits.detach().scatter(1, tokens, -torch.inf).softmax(-1)
        return F.cross_entropy(logits, target)
