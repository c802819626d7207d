"""Training of image classifiers on the one loop.

It trains K networks of one architecture at once, each on its own samples (see `nets.lockstep`); K = 1 is the
ordinary case. Every random choice derives from a network's seed and the epoch number, so a run that was
stopped and resumed draws the same batches as one that was not, and on one machine ends with the same bits.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from palimpsest.checks import require_count, require_number
from palimpsest.nets import modes
from palimpsest.nets.lockstep import side_by_side
from palimpsest.nets.quantised import collapsed, hold_steps, steps
from palimpsest.training import checkpoints
from palimpsest.training.loop import Run, TrainingDiverged
from palimpsest.training.seeds import epoch_order, seeded


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD with Nesterov momentum and a cosine schedule to zero.

    `lr` is the peak step size. `steps`, where given, replaces `epochs` as the length of the run, so that a
    subset can be trained for as many updates as the full set (step-matched) and not only for as many epochs.
    `batch_size` is at least 2: batch norm needs two samples for a variance. Raises ValueError for a value that
    cannot be meant.
    """

    epochs: int
    lr: float
    batch_size: int = 32
    momentum: float = 0.9
    weight_decay: float = 5e-4
    steps: int | None = None

    def __post_init__(self):
        require_count("epochs", self.epochs)
        require_count("batch_size", self.batch_size, least=2)
        if self.steps is not None:
            require_count("steps", self.steps)
        require_number("lr", self.lr)
        require_number("momentum", self.momentum, least=0)
        require_number("weight_decay", self.weight_decay, least=0)

    def batches(self, samples: int) -> int:
        """Batches in one epoch over `samples` samples; an odd sample joins a batch of two."""
        return min(math.ceil(samples / self.batch_size), samples // 2)

    def total_steps(self, samples: int) -> int:
        return self.steps or self.epochs * self.batches(samples)


@dataclass
class History:
    """What training saw: `loss` [epochs][K], the mean of each epoch, and `correct` [epochs, K, N] bool: was a
    sample classified correctly in the forward pass in which it was trained on (the statistic of Toneva et al.
    2019, section 3)? False where `Recipe.steps` ended the last epoch before it."""

    loss: list[list[float]]
    correct: torch.Tensor


def fit(
    models: list[nn.Module],
    x: torch.Tensor,
    y: torch.Tensor,
    recipe: Recipe,
    *,
    seeds: list[int],
    checkpoint: Path | None = None,
    on_epoch: Callable[[int], None] | None = None,
    show: str | None = None,
) -> History:
    """Train `models` in place: network k on x[k] [N, C, H, W] float, y[k] [N] int64, batches from seeds[k].

    With `checkpoint` (a folder) the state is written after each epoch, and an earlier state of the *same* run
    (recipe, seeds, samples, starting weights) is continued: pass the models as they were at its start. The
    folder of another run raises ValueError. `on_epoch(epoch)` is called after each epoch, counted from 1, when
    the models hold that epoch's weights, and not again for epochs before a resumption. `show` labels a progress
    bar; without it the loop is silent. Dropout draws from the seeds too, all networks' from all of them. Frozen
    parts stay in evaluation mode (`nets.modes.train`), and the models come back in the modes in which they came.
    Raises TrainingDiverged when a loss or a weight is not finite.
    """
    if x.ndim != 5 or y.shape != x.shape[:2] or not len(models) == len(seeds) == len(x) or x.shape[1] < 2:
        raise ValueError(
            f"models, x, y, seeds: got {len(models)} models, shapes {tuple(x.shape)} and {tuple(y.shape)}, "
            f"{len(seeds)} seeds; want K models, [K, N, C, H, W], [K, N] and K seeds, N at least 2"
        )
    if not x.isfinite().all():
        raise ValueError("x: got NaN or infinite values, want finite ones")
    together = side_by_side(models)
    classes = forward(together, x[:, :1]).shape[2]
    if y.dtype != torch.int64 or not 0 <= int(y.min()) <= int(y.max()) < classes:
        span = f"{y.min().item()} .. {y.max().item()}"
        raise ValueError(f"y: got {y.dtype} values in {span}, want int64 in 0 .. {classes - 1}")
    samples = x.shape[1]
    batches, total = recipe.batches(samples), recipe.total_steps(samples)
    held = list(steps(together).values())
    optimiser = torch.optim.SGD(
        decay_groups(together, recipe.weight_decay),
        recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        foreach=True,
    )
    run = Run(
        checkpoint,
        lambda: {
            "recipe": asdict(recipe),
            "seeds": list(seeds),
            "data": checkpoints.digest([x, y]),
            "start": checkpoints.digest(together.state_dict().values()),
        },
    )
    history = run.values.setdefault("loss", [])
    run.extra.setdefault("correct", torch.zeros(0, *y.shape, dtype=torch.bool))
    row = torch.arange(len(models))

    def epoch(number: int) -> Iterator[None]:
        modes.put(during)
        correct, losses = torch.zeros(y.shape, dtype=torch.bool), []
        order = torch.stack([epoch_order(samples, seed, number) for seed in seeds], dim=1)
        # Near-equal batches: a last batch of one sample would leave batch norm without a variance.
        with seeded(seeds, "dropout", number, device=x.device):
            for batch in order.tensor_split(batches)[: total - number * batches]:
                yield
                logits, targets = together(x[row, batch]), y[row, batch]
                loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
                loss = loss.view_as(targets).mean(0)
                losses.append(loss.detach())
                optimiser.zero_grad(set_to_none=True)
                loss.sum().backward()
                optimiser.step()
                if not hold_steps(held):
                    raise TrainingDiverged("a quantiser's step is not finite")
                correct[row, batch] = logits.detach().argmax(2) == targets
        mean = torch.stack(losses).mean(0)
        if not mean.isfinite().all():
            raise TrainingDiverged(f"the loss is {mean.tolist()}")
        stop_if_collapsed(together)
        history.append(mean.tolist())
        run.extra["correct"] = torch.cat([run.extra["correct"], correct[None]])

    def look(done: int) -> None:
        if on_epoch is not None:
            together.unpack()
            on_epoch(done)

    with modes.kept(together):
        modes.train(together)
        during = modes.of(together)
        run.train(
            epoch,
            together.state_dict(keep_vars=True),
            optimiser,
            steps=total,
            every=batches,
            lr=recipe.lr,
            rate=lambda step: recipe.lr * 0.5 * (1 + math.cos(math.pi * step / total)),
            after=look,
            show=show,
        )
    together.unpack()
    return History(history, run.extra["correct"])


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Parameter groups for an optimiser: `weight_decay` on everything but the quantisers' steps, which have none."""
    without = steps(model)
    groups = [
        {"params": [p for n, p in model.named_parameters() if n not in without], "weight_decay": weight_decay},
        {"params": list(without.values()), "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def stop_if_collapsed(model: nn.Module) -> None:
    """Raise TrainingDiverged when a quantiser's step has collapsed."""
    dead = collapsed(model)
    if dead:
        raise TrainingDiverged(f"the quantiser's step {dead[0]} collapsed to zero")


def _spread(models: list[nn.Module], x: torch.Tensor) -> torch.Tensor:
    """x as [K, N, C, H, W], a view. Raises ValueError for another shape."""
    if x.ndim == 4:
        x = x.expand(len(models), *x.shape)
    if x.ndim != 5 or len(x) != len(models) or x.shape[1] == 0:
        raise ValueError(
            f"x: got shape {tuple(x.shape)}, want [N, C, H, W] or [{len(models)}, N, C, H, W], N at least 1"
        )
    return x


@torch.no_grad()
def forward(together: nn.Module, x: torch.Tensor, batch_size: int = 500, part: str = "forward") -> torch.Tensor:
    """Logits [K, N, classes], or what another method `part` gives, of the networks `together` on x [K, N, ...].

    In evaluation mode and without gradients; `together` and its parts are left in the modes they were in.
    """
    with modes.evaluation(together):
        batches = [getattr(together, part)(batch.transpose(0, 1)) for batch in x.split(batch_size, 1)]
    return torch.cat(batches).transpose(0, 1)


def logits(models: list[nn.Module], x: torch.Tensor, batch_size: int = 500) -> torch.Tensor:
    """Logits [K, N, classes] of network k on x[k], in evaluation mode. One model may be of any class.

    x is [K, N, C, H, W], or [N, C, H, W] for the same samples through every network. Raises ValueError for
    another shape.
    """
    return forward(side_by_side(models), _spread(models, x), batch_size)


@torch.no_grad()
def predict(models: list[nn.Module], x: torch.Tensor, batch_size: int = 500) -> tuple[torch.Tensor, torch.Tensor]:
    """Penultimate embeddings [K, N, D] and logits [K, N, classes]; x as for `logits`. For networks of `nets`."""
    together = side_by_side(models)
    features = forward(together, _spread(models, x), batch_size, "features")
    return features, together.head(features.transpose(0, 1)).transpose(0, 1)


def accuracy(models: list[nn.Module], x: torch.Tensor, y: torch.Tensor) -> list[float]:
    """Share of the samples x [N, C, H, W] whose largest logit is their label y [N], in [0, 1], one per network.

    Raises ValueError when x has another shape, y another length, or a model no finite logits: the largest of these
    would be called class 0.
    """
    if y.shape != x.shape[:1]:
        raise ValueError(f"y: got shape {tuple(y.shape)}, want [{len(x)}]")
    found = logits(models, x)
    if not found.isfinite().all():
        raise ValueError("models: give logits that are not finite, want finite ones")
    return (found.argmax(2) == y).double().mean(1).tolist()
