"""PDU: primal-dual unlearning (Entesari et al. 2025, "Constrained entropic unlearning", arXiv 2506.05314)."""

from dataclasses import dataclass

from torch import Tensor

from palimpsest.checks import require_number
from palimpsest.unlearning.language.method import Objective, answer_logits
from palimpsest.unlearning.language.task import Batch, Task


@dataclass(frozen=True)
class PDU(Objective):
    """γ·L_forget + λ·(L_retain − ε): flat logits on the forget set, and a loss of at most ε on the retain set.

    L_forget is the mean over forget answer tokens of (max_k z_k − mean_k z_k)², z the model's logits: 0 where the
    distribution is uniform. L_retain is the mean loss of a retain answer token. λ starts at α; after each update
    from epoch `dual_warmup` on (counted from 0) it becomes max(0, λ + η·(L_retain − ε)), L_retain of that update.

    Stated by the paper: both losses, the constraint, and the ascent in λ. open-unlearning takes L_forget over prompt
    and padding too; its command for TOFU has γ = 1, α = 100, ε = 0.3 nats, η = 5 and a warm-up of 5 of 10 epochs, as
    here. ε belongs to a model and a data set: the paper's rule is a little above L_retain of the model as it was
    given. Ours: retain sequences are passed also where α = 0, because λ can rise.
    """

    alpha: float = 100.0
    epsilon: float = 0.3
    dual_step: float = 5.0
    dual_warmup: float = 5.0

    def __post_init__(self):
        super().__post_init__()
        require_number("epsilon", self.epsilon, least=0)
        require_number("dual_step", self.dual_step)
        require_number("dual_warmup", self.dual_warmup, least=0)

    def forget_loss(self, task: Task, batch: Batch) -> Tensor:
        logits = answer_logits(task, batch)
        return (logits.amax(1) - logits.mean(1)).square().mean()

    def loss(self, task: Task, forget: Batch, retain: Batch) -> Tensor:
        # λ lives in the log, which a checkpoint keeps.
        multiplier = task.log[-1]["dual"] if task.log else self.alpha
        forgotten, kept = self.forget_loss(task, forget), self.retain_loss(task, retain)
        total = self.gamma * forgotten + multiplier * (kept - self.epsilon)
        if len(task.log) >= self.dual_warmup * task.steps:
            multiplier = max(0.0, multiplier + self.dual_step * (kept.item() - self.epsilon))
        task.note(forget=forgotten, retain=kept, dual=multiplier, loss=total)
        return total
