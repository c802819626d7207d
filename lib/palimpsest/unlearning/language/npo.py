"""NPO: negative preference optimisation (Zhang et al. 2024, arXiv 2404.05868)."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from palimpsest.checks import require_number
from palimpsest.unlearning.language.method import Objective, sequence_loss
from palimpsest.unlearning.language.task import Batch, Task


@dataclass(frozen=True)
class NPO(Objective):
    """−(2/β)·mean over sequences of ln σ(β(ℓ − ℓ_ref)), ℓ the summed loss of an answer, ℓ_ref that of the model as it
    was given; plus α times the mean loss of a retain answer token.

    Stated by the paper: the loss (equation 3) and, with a retain loss, its use; β = 0.1. open-unlearning: γ = α = 1.
    At the start it is (2/β) ln 2, and its gradient that of ascent on the summed losses; as an answer is forgotten,
    its share of the gradient fades: 2σ(−β(ℓ − ℓ_ref)).

    With `per_token`, ours, ℓ and ℓ_ref are means over an answer's tokens, as the retain loss is one: summed, the
    forget part outvotes it by the length of an answer.
    """

    beta: float = 0.1
    per_token: bool = False

    def __post_init__(self):
        super().__post_init__()
        require_number("beta", self.beta)

    def begin(self, task: Task) -> None:
        task.cache["forget"] = task.sequence_logprobs(task.forget)

    def forget_loss(self, task: Task, batch: Batch) -> Tensor:
        rise = sequence_loss(task, batch) + task.cache["forget"][batch.rows]
        if self.per_token:
            rise = rise / batch.counted.sum(1)
        return -2 / self.beta * F.logsigmoid(self.beta * rise).mean()
