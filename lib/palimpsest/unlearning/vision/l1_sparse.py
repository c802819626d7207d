"""ℓ1-sparse: fine-tune with a penalty on |θ| (Jia et al. 2023, "Model sparsity can simplify machine unlearning")."""

from collections.abc import Iterator
from dataclasses import dataclass

from palimpsest.checks import require_number
from palimpsest.nets.quantised import steps
from palimpsest.unlearning.vision.method import Method
from palimpsest.unlearning.vision.task import Task, cross_entropy


@dataclass(frozen=True)
class L1Sparse(Method):
    """CE(retain) + γ_e·‖θ‖₁ with γ_e = γ·(1 − e/E) in epoch e of E, counted from 0.

    Stated by the paper: the penalty, and that a decreasing γ is best. Released code: the linear schedule, and the
    norm over all trainable parameters, biases and batch norm included. It leaves γ to the caller; 1e-4 is what
    benchmarks that run it pass, with a step size of 0.01. Our reading: the steps of a quantiser are no weights and
    carry no penalty, as they carry no weight decay.
    """

    gamma: float = 1e-4

    def __post_init__(self):
        require_number("gamma", self.gamma)

    def epoch(self, task: Task, epoch: int) -> Iterator[None]:
        strength = self.gamma * (1 - epoch / task.epochs)
        free = {id(p) for p in steps(task.net).values()}
        for batch in task.retained(epoch):
            gradients = task.gradients(cross_entropy(task.logits(task.images(batch)), task.labels(batch)))
            rows = zip(task.parameters, gradients, strict=True)
            task.descend([g if id(p) in free else g + strength * p.detach().sign() for p, g in rows])
            yield
