"""What a method of unlearning sees: K networks, their data, and the few operations every method is made of.

K problems are worked on at once (`nets.lockstep`): K seeds, or K step sizes of one seed, or both. K = 1 is the
ordinary case. A tensor of parameters or gradients holds the networks one after another in its first dimension;
`Task.split` gives it a leading dimension K. Losses are [K], one per network, so that no network's gradient depends
on another's.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.kernels import project_orthogonal
from palimpsest.nets import modes
from palimpsest.nets.lockstep import side_by_side
from palimpsest.nets.modes import evaluation
from palimpsest.training import seeds
from palimpsest.training.seeds import epoch_order

Gradients = list[Tensor]


class Task:
    """K networks that shall forget.

    Attributes:
        net: the K networks side by side; [B, K, C, H, W] -> logits [B, K, classes].
        models: the K networks as they were given; their weights are of use in `begin` only.
        x, y: images [K, N, C, H, W] and labels [K, N].
        forget, retain: indices into a network's N samples, [K, F] and [K, R].
        seeds: one per network; every random choice is a function of it.
        lr: [K] the peak step size of each network, or what a method without steps tunes instead.
        epochs, batch_size: the length of the run and the size of its batches.
        retain_samples: how many retain samples an epoch passes; None for all of them.
        memory: tensors a method keeps from epoch to epoch; they are part of a checkpoint.
        log: one dictionary per logged step: "epoch", "step" and lists of K floats.
        steps: of the optimiser so far.
        samples_forward, samples_backward: samples passed through one network so far, the measure of work.
    """

    def __init__(
        self, models: list[nn.Module], x, y, forget, retain, *, seeds, lr, epochs, batch_size, retain_samples=None
    ):
        self.net = side_by_side(models)
        modes.train(self.net)
        self.models = models
        self.x, self.y, self.forget, self.retain = x, y, forget, retain
        self.seeds, self.lr, self.epochs, self.batch_size = seeds, lr, epochs, batch_size
        self.retain_samples = retain_samples
        self.memory: dict[str, Tensor] = {}
        self.log: list[dict] = []
        self.samples_forward = self.samples_backward = self.steps = 0
        self._recorded = 0  # samples in the graph that the next `gradients` goes back through
        self.parameters = [p for p in self.net.parameters() if p.requires_grad]
        self._rows = torch.arange(len(models), device=x.device)

    @property
    def networks(self) -> int:
        return len(self.models)

    @property
    def classes(self) -> int:
        return self.probe.shape[2]

    @cached_property
    def probe(self) -> Tensor:
        """Logits [1, K, classes] of each network's first sample, for its shape."""
        with torch.no_grad(), evaluation(self.net):
            return self.net(self.x[:, :1].transpose(0, 1))

    @cached_property
    def original(self) -> nn.Module:
        """The K networks as they were at the start, frozen and in evaluation mode.

        A method that needs them must ask in `begin`, before the first update.
        """
        return copy.deepcopy(self.net).requires_grad_(False).eval()

    def generator(self, epoch: int, k: int, *purpose: str | int) -> torch.Generator:
        """The random numbers of network k in one epoch, for one purpose (`seeds.generator`)."""
        return seeds.generator(self.seeds[k], "unlearning", epoch, *purpose)

    # -- data ----------------------------------------------------------------------------------------------------

    def batches(self, indices: Tensor, epoch: int, count: int | None = None) -> Iterator[Tensor]:
        """Index batches [B, K] over `indices` [K, n] in the epoch's order, nearly equal in size, none of one; `count`
        takes the first so many of them."""
        n = indices.shape[1]
        order = torch.stack([epoch_order(n, seed, epoch) for seed in self.seeds]).to(indices.device)
        shuffled = indices.gather(1, order).T[:count]
        n = len(shuffled)
        yield from shuffled.tensor_split(max(1, min(-(-n // self.batch_size), n // 2)))

    def retained(self, epoch: int) -> Iterator[Tensor]:
        """`batches` of the retain samples that this epoch passes, drawn anew for each."""
        return self.batches(self.retain, epoch, self.retain_samples)

    def paired(self, epoch: int) -> Iterator[tuple[Tensor | None, Tensor]]:
        """(forget batch, retain batch) once over the retain samples of the epoch.

        Where the epoch passes all of the retain set, the forget set begins again when it runs out. Where their number
        is fixed, so is that of the forget samples: each comes once, in batches spread evenly over those of the retain
        set, and the other pairs have None.
        """
        if self.retain_samples is not None:
            retained, forgotten = list(self.retained(epoch)), list(self.batches(self.forget, epoch))
            if len(forgotten) > len(retained):
                forgotten = torch.cat(forgotten).tensor_split(len(retained))
            places = {len(retained) * i // len(forgotten): batch for i, batch in enumerate(forgotten)}
            yield from ((places.get(i), batch) for i, batch in enumerate(retained))
            return
        cycle, turn = iter(()), 0
        for retain in self.batches(self.retain, epoch):
            forget = next(cycle, None)
            if forget is None:
                cycle, turn = self.batches(self.forget, epoch + self.epochs * turn), turn + 1
                forget = next(cycle)
            yield forget, retain

    def images(self, batch: Tensor) -> Tensor:
        """[B, K, C, H, W] for indices [B, K]."""
        return self.x[self._rows, batch]

    def labels(self, batch: Tensor) -> Tensor:
        """[B, K] for indices [B, K]."""
        return self.y[self._rows, batch]

    # -- passes --------------------------------------------------------------------------------------------------

    def features(self, images: Tensor) -> Tensor:
        """Penultimate embeddings [B, K, D], with gradients, in the mode the network is in."""
        self.samples_forward += len(images)
        self._recorded += len(images)
        return self.net.features(images)

    def logits(self, images: Tensor, *, keep_statistics: bool = False) -> Tensor:
        """Logits [B, K, classes] in training mode, with gradients.

        `keep_statistics` normalises by the batch as training does, and leaves the running statistics as they are.
        """
        self.samples_forward += len(images)
        self._recorded += len(images)
        if not keep_statistics:
            return self.net(images)
        with frozen_statistics(self.net):
            return self.net(images)

    @torch.no_grad()
    def evaluate(self, images: Tensor, net: nn.Module | None = None, batch_size: int = 500) -> Tensor:
        """Logits [B, K, classes] in evaluation mode, without gradients, of `net` (default: the current one)."""
        self.samples_forward += len(images)
        net = net or self.net
        with evaluation(net):
            return torch.cat([net(part) for part in images.split(batch_size)])

    def gradients(self, loss: Tensor) -> Gradients:
        """d loss[k] / d parameters of network k, for all networks at once; loss is [K]."""
        self.samples_backward += self._recorded
        self._recorded = 0
        gradients = torch.autograd.grad(loss.sum(), self.parameters, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, gradients, strict=True)]

    def descend(self, gradients: Gradients) -> None:
        """Make these the gradients of the step that follows the next `yield`."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient

    # -- networks apart ------------------------------------------------------------------------------------------

    def split(self, tensor: Tensor) -> Tensor:
        """A parameter or gradient as [K, ...], a view."""
        return tensor.unflatten(0, (self.networks, -1)) if tensor.ndim else tensor.view(1, 1)

    def scaled(self, gradients: Gradients, factors: Tensor) -> Gradients:
        """Each network's gradients times its factor; factors is [K]."""
        return [g * self.spread(factors, g) for g in gradients]

    def spread(self, values: Tensor, like: Tensor) -> Tensor:
        """values [K], one per network, in a shape that broadcasts against the parameter `like`."""
        if like.ndim == 0:
            return values[0]
        repeated = values if len(like) == self.networks else values.repeat_interleave(len(like) // self.networks)
        return repeated.view(-1, *[1] * (like.ndim - 1))

    def dot(self, a: Gradients, b: Gradients) -> Tensor:
        """<a, b> of each network, [K]."""
        parts = [self.split(x * y) for x, y in zip(a, b, strict=True)]
        return torch.stack([part.flatten(1).sum(1) for part in parts]).sum(0)

    def norms(self, gradients: Gradients) -> Tensor:
        """Σ_t ‖g_t‖₂ over the tensors of each network, [K]: the norm that Q-MUL's code weighs by."""
        return torch.stack([self.split(g).flatten(1).norm(dim=1) for g in gradients]).sum(0)

    def projected(self, g_f: Gradients, g_r: Gradients, lam: float, mode: str, scope: str) -> Gradients:
        """`kernels.project_orthogonal` for each network: g_r + lam (g_f - c g_r)."""
        if self.networks == 1:
            return project_orthogonal(g_f, g_r, lam, mode, scope)
        out = [torch.empty_like(g) for g in g_r]
        apart = [[self.split(g) for g in gradients] for gradients in (g_f, g_r, out)]
        for k in range(self.networks):
            f, r, o = ([g[k] for g in gradients] for gradients in apart)
            for part, value in zip(o, project_orthogonal(f, r, lam, mode, scope), strict=True):
                part.copy_(value)
        return out

    def record(self, epoch: int, **values: Tensor) -> None:
        """Append a row to the log: each value is [K]."""
        row = {name: value.detach().tolist() for name, value in values.items()}
        self.log.append({"epoch": epoch, "step": len(self.log), **row})


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each network: logits [B, K, classes], labels [B, K] -> [K]."""
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return losses.view_as(labels).mean(0)


@contextmanager
def frozen_statistics(net: nn.Module) -> Iterator[None]:
    """Inside, batch norm normalises by the batch but does not move its running statistics."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [(m.momentum, m.num_batches_tracked) for m in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
