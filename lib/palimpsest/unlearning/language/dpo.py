"""DPO: prefer another answer to the one to forget (Rafailov et al. 2023, arXiv 2305.18290)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from palimpsest.checks import require_number
from palimpsest.unlearning.language.method import Objective, sequence_loss
from palimpsest.unlearning.language.task import Batch, Task


@dataclass(frozen=True)
class IdkDPO(Objective):
    """−(2/β)·mean over sequences of ln σ(β[(ℓ − ℓ_ref) − (ℓ′ − ℓ′_ref)]), ℓ the summed loss of the answer to forget,
    ℓ′ that of the same row of `idk`, an answer like "I don't know" to the same question; plus α times the mean loss
    of a retain answer token.

    Stated by the paper: the loss, without the factor 2/β. TOFU (Maini et al. 2024, section 4.1): refusals as answers
    to prefer. open-unlearning: the factor, β = 0.1, γ = α = 1.
    """

    beta: float = 0.1

    needs_idk: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        require_number("beta", self.beta)

    def begin(self, task: Task) -> None:
        task.cache["forget"] = task.sequence_logprobs(task.forget)
        task.cache["idk"] = task.sequence_logprobs(task.idk)

    def forget_loss(self, task: Task, batch: Batch) -> Tensor:
        preferred = task.batch(task.idk, batch.rows)
        rise = sequence_loss(task, batch) + task.cache["forget"][batch.rows]
        rise_preferred = sequence_loss(task, preferred) + task.cache["idk"][batch.rows]
        return -2 / self.beta * F.logsigmoid(self.beta * (rise - rise_preferred)).mean()


@dataclass(frozen=True)
class DPO(IdkDPO):
    """IdkDPO without a retain loss, as Zhang et al. 2024 (arXiv 2404.05868) run it beside NPO."""

    alpha: float = 0.0
