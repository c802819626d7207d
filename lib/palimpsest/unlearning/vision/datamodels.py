"""Datamodel matching (DMM): predict what Retrain would say, then match it (Georgiev et al. 2025, ICLR)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import Lasso
from torch import Tensor, nn

from palimpsest.checks import require_count, require_number
from palimpsest.metrics import checks
from palimpsest.nets import BodyAndHead
from palimpsest.nets.quantised import steps
from palimpsest.nets.redrawn import redrawn
from palimpsest.training import Recipe, fit
from palimpsest.training import logits as outputs_of
from palimpsest.training.seeds import derived, generator
from palimpsest.unlearning.vision.method import Method
from palimpsest.unlearning.vision.task import Task

TOGETHER = 16
"""Networks of the datamodels that train in lockstep."""


@dataclass(frozen=True)
class DatamodelMatching(Method):
    """Squared error to the predicted outputs of Retrain, on forget and retain samples.

    Stated by the paper (arXiv 2410.23232): a datamodel predicts the outputs of a network by a linear function of
    which samples it was trained on, fitted to networks trained on random halves of the data, 1,000 to 20,000 of them;
    what the forget set contributes is taken from the outputs of the network at hand, and fine-tuning matches the
    result. Datamodels (Ilyas et al. 2022) are fitted by the lasso. With Retrain's own outputs as `predicted` this is
    the paper's oracle matching.
    Our reading: outputs are all logits less their mean over classes, which softmax does not see; the datamodels
    correct the forget samples alone, and retain samples keep what the network says of them.

    networks: how many are trained on random `share`s of the data, by `epochs` of SGD at `lr`, each from a start of
        its own; networks that share samples and forget set share them. They have the architecture of `models`,
        which must be float.
    penalty: of the lasso, per network, in logits.
    predicted: [K, N, classes] outputs to match, in the order of the samples, in the place of any prediction.
    """

    networks: int = 64
    share: float = 0.5
    epochs: int = 20
    lr: float = 0.1
    penalty: float = 0.2
    predicted: Tensor | None = None

    def __post_init__(self):
        require_count("networks", self.networks, least=2)
        require_count("epochs", self.epochs)
        require_number("share", self.share, most=1)
        require_number("lr", self.lr)
        require_number("penalty", self.penalty)

    def begin(self, task: Task) -> None:
        everything = torch.arange(task.y.shape[1], device=task.y.device)
        if self.predicted is not None:
            shape = [task.networks, len(everything), task.classes]
            if list(self.predicted.shape) != shape:
                raise ValueError(f"predicted: got shape {list(self.predicted.shape)}, want {shape}")
            task.memory["matched"] = self.predicted.to(task.x).transpose(0, 1).clone()
            return
        if steps(task.net):
            raise ValueError("models: got quantised layers, want float ones, or `predicted` outputs")
        own = task.evaluate(task.images(everything[:, None].expand(-1, task.networks)))
        added: list[Tensor] = []
        for k in range(task.networks):
            first = next(j for j in range(k + 1) if _same(task, j, k))
            added.append(added[first] if first < k else self._trained(task, k))
            own[task.forget[k], k] -= added[k]
        task.memory["matched"] = own

    def _trained(self, task: Task, k: int) -> Tensor:
        """`contribution` of network k's problem, with its work counted."""
        passed = self.networks * self.epochs * max(2, round(self.share * task.y.shape[1]))
        task.samples_forward += passed + self.networks * task.forget.shape[1]
        task.samples_backward += passed
        options = {"seed": task.seeds[k], "batch_size": task.batch_size}
        return self.contribution(task.models[k], task.x[k], task.y[k], task.forget[k], **options)

    def contribution(
        self, model: nn.Module, x: Tensor, y: Tensor, forget: Tensor, *, seed: int, batch_size: int
    ) -> Tensor:
        """[F, classes]: what the samples `forget` add to the outputs on themselves; x [N, C, H, W], y [N]."""
        members = memberships(self.networks, len(y), self.share, generator(seed, "datamodels"))
        chosen = torch.stack([row.nonzero()[:, 0] for row in members]).to(x.device)
        recipe, said = Recipe(self.epochs, self.lr, batch_size), []
        size = TOGETHER if isinstance(model, BodyAndHead) else 1
        for part in torch.arange(self.networks).split(size):
            drawn = [derived(seed, "datamodels", m) for m in part.tolist()]
            networks = [redrawn(model, start, "datamodels").to(x.device) for start in drawn]
            orders = [derived(seed, "batches", m) for m in part.tolist()]
            fit(networks, x[chosen[part]], y[chosen[part]], recipe, seeds=orders)
            said.append(outputs_of(networks, x[forget]))
        return contribution(members, torch.cat(said), forget.cpu(), self.penalty).to(x)

    def epoch(self, task: Task, epoch: int) -> Iterator[None]:
        columns = torch.arange(task.networks, device=task.x.device)
        for forget, retain in task.paired(epoch):
            batch = retain if forget is None else torch.cat([forget, retain])
            missed = centred(task.logits(task.images(batch))) - centred(task.memory["matched"][batch, columns])
            task.descend(task.gradients(missed.square().mean((0, 2))))
            yield


def memberships(networks: int, samples: int, share: float, draw: torch.Generator) -> Tensor:
    """bool [networks, samples]: who is trained on what, a random `share` of the samples each."""
    count = max(2, round(share * samples))
    return torch.stack([torch.randperm(samples, generator=draw).argsort() < count for _ in range(networks)])


def contribution(members: Tensor, outputs: Tensor, forget: Tensor, penalty: float) -> Tensor:
    """What the samples `forget` together add to each output, by a lasso on the memberships.

    members: bool [M, N]; outputs: [M, n, C] of M networks on n samples, centred here; forget: int64 [F].
    Returns float64 [n, C], Σ over `forget` of the coefficients of min ‖outputs − a − members β‖² / 2M + penalty ‖β‖₁.
    """
    require_number("penalty", penalty)
    said = centred(torch.from_numpy(checks.real("outputs", outputs, "MNC")))
    if members.dtype != torch.bool or members.ndim != 2 or len(members) != len(said):
        raise ValueError(f"members: got {members.dtype} {list(members.shape)}, want bool [{len(said)}, N]")
    fitted = Lasso(penalty, precompute=True).fit(members.numpy().astype(np.float64), said.flatten(1).numpy())
    coefficients = torch.from_numpy(np.atleast_2d(fitted.coef_))
    return coefficients[:, forget].sum(1).view(said.shape[1:])


def centred(logits: Tensor) -> Tensor:
    """Less their mean over the classes, the last dimension."""
    return logits - logits.mean(-1, keepdim=True)


def _same(task: Task, j: int, k: int) -> bool:
    """Whether networks j and k have the same problem."""
    return j == k or all(torch.equal(part[j], part[k]) for part in (task.x, task.y, task.forget))
