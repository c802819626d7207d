"""KL to the model as it was given as the retain loss: TOFU's "KL minimization" (Maini et al. 2024, arXiv 2401.06121,
section 4.1), and NPO with it (Zhang et al. 2024, arXiv 2404.05868)."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from palimpsest.unlearning.language.grad_diff import GradDiff
from palimpsest.unlearning.language.method import answer_logits, given_logits, keep_given
from palimpsest.unlearning.language.npo import NPO
from palimpsest.unlearning.language.task import Batch, Task


class RetainKL:
    """L_retain: the mean over retain answer tokens of Σ_k p_ref(k) ln(p_ref(k) / p(k)), k in the vocabulary, p the
    model's distribution and p_ref that of the model as it was given. It is 0 at the start, and so is its gradient.

    Stated by TOFU: the divergence and its direction, averaged over all of a sequence's tokens and then over
    sequences. open-unlearning divides the sum over all positions, prompt and padding among them, by their number;
    ours takes answer tokens only, as the other retain losses do.
    """

    def begin(self, task: Task) -> None:
        super().begin(task)
        keep_given(task, "retain", task.retain, task.drawn)

    def retain_loss(self, task: Task, batch: Batch) -> Tensor:
        before, now = given_logits(task, "retain", batch), answer_logits(task, batch)
        return F.kl_div(now.log_softmax(-1), before.log_softmax(-1), reduction="batchmean", log_target=True)


@dataclass(frozen=True)
class GradDiffKL(RetainKL, GradDiff):
    """−γ·(mean loss of a forget answer token) + α·KL, γ = α = 1: TOFU's "KL minimization"."""


@dataclass(frozen=True)
class NPOKL(RetainKL, NPO):
    """NPO's forget loss + α·KL, γ = α = 1: NPO+KL of its paper."""
