"""The one training loop: seeded, resumable, with a cosine schedule and a progress bar.

It trains K networks of one architecture at once, each on its own samples (see `nets.lockstep`); K = 1 is the
ordinary case. Every random choice derives from a network's seed and the epoch number, so a run that was stopped
and resumed draws the same batches as one that was not, and ends with the same bits on the same machine.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from .nets.lockstep import Lockstep
from .runs import progress_bar, write_atomic


class TrainingDiverged(RuntimeError):
    """The loss stopped being finite. The last good checkpoint, if any was asked for, is kept."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD with Nesterov momentum and a cosine schedule to zero.

    `lr` is the peak step size. `steps`, where given, replaces `epochs` as the length of the run, so that a
    subset can be trained for as many updates as the full set (step-matched) and not only for as many epochs.
    """

    epochs: int
    lr: float
    batch_size: int = 32
    momentum: float = 0.9
    weight_decay: float = 5e-4
    steps: int | None = None

    def __post_init__(self):
        for name in ("epochs", "batch_size", "steps"):
            value = getattr(self, name)
            if not (name == "steps" and value is None) and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}: got {value!r}, want a positive integer")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr: got {self.lr!r}, want a finite positive number")

    def batches(self, samples: int) -> int:
        """Batches in one epoch over `samples` samples."""
        return math.ceil(samples / self.batch_size)

    def total_steps(self, samples: int) -> int:
        return self.steps or self.epochs * self.batches(samples)


@dataclass
class History:
    """What training saw: `loss` [epochs][K], the mean of each epoch, and `correct` [epochs, K, N] bool: was a
    sample classified correctly in the forward pass in which it was trained on (the statistic of Toneva et al.
    2019, section 3)?"""

    loss: list[list[float]]
    correct: torch.Tensor


def epoch_order(samples: int, seed: int, epoch: int) -> torch.Tensor:
    """The permutation of epoch `epoch`, a function of its arguments only."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(samples, generator=generator)


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
    """Train `models` in place: network k on x[k] [N, C, H, W] float and y[k] [N] int64, batches from seeds[k].

    With `checkpoint` (a folder) the state is written after each epoch and an earlier state of the *same* run is
    continued; a folder of another run raises ValueError. `on_epoch(epoch)` is called after each epoch, counted
    from 1, when the models hold that epoch's weights. `show` labels a progress bar; without it the loop is
    silent. Raises TrainingDiverged when a loss is not finite.
    """
    if x.ndim != 5 or y.shape != x.shape[:2] or not len(models) == len(seeds) == len(x) or x.shape[1] == 0:
        raise ValueError(
            f"models, x, y, seeds: got {len(models)} models, shapes {tuple(x.shape)} and {tuple(y.shape)}, "
            f"{len(seeds)} seeds; want K models, [K, N, C, H, W], [K, N] and K seeds"
        )
    samples = x.shape[1]
    batches, total = recipe.batches(samples), recipe.total_steps(samples)
    together = Lockstep(models)
    optimiser = torch.optim.SGD(
        together.parameters(),
        recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
        foreach=True,
    )
    identity = {"recipe": asdict(recipe), "seeds": list(seeds), "samples": samples}
    epoch, history = 0, History([], torch.zeros(0, *y.shape, dtype=torch.bool))
    if checkpoint is not None:
        epoch, history = _resume(checkpoint, identity, together, optimiser, history)
    epochs = math.ceil(total / batches)
    row = torch.arange(len(models))
    with progress_bar(total=epochs, initial=epoch, desc=show) as bar:
        while epoch < epochs:
            together.train()
            correct, losses = torch.zeros(y.shape, dtype=torch.bool), []
            order = torch.stack([epoch_order(samples, seed, epoch) for seed in seeds], dim=1)
            # Near-equal batches: a last batch of one sample would leave batch norm without a variance.
            for index, batch in enumerate(order.tensor_split(batches)[: total - epoch * batches]):
                step = epoch * batches + index
                for group in optimiser.param_groups:
                    group["lr"] = recipe.lr * 0.5 * (1 + math.cos(math.pi * step / total))
                logits, targets = together(x[row, batch]), y[row, batch]
                loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
                loss = loss.view_as(targets).mean(0)
                losses.append(loss.detach())
                optimiser.zero_grad(set_to_none=True)
                loss.sum().backward()
                optimiser.step()
                correct[row, batch] = logits.detach().argmax(2) == targets
            epoch += 1
            mean = torch.stack(losses).mean(0)
            if not mean.isfinite().all():
                raise TrainingDiverged(
                    f"the loss became {mean.tolist()} in epoch {epoch} of {epochs} at peak step size "
                    f"{recipe.lr}; a smaller lr is needed"
                )
            history = History([*history.loss, mean.tolist()], torch.cat([history.correct, correct[None]]))
            if checkpoint is not None:
                _save(checkpoint, identity, epoch, together, optimiser, history)
            if on_epoch is not None:
                together.unpack()
                on_epoch(epoch)
            bar.update()
    together.unpack()
    return history


def _save(folder: Path, identity: dict, epoch: int, model: nn.Module, optimiser, history: History) -> None:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, parameter in enumerate(model.parameters()):
        tensors[f"momentum.{index}"] = optimiser.state[parameter].get("momentum_buffer", torch.zeros_like(parameter))
    tensors["correct"] = history.correct
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / f"epoch-{epoch:04d}.safetensors"
    write_atomic(weights, lambda path: save_file({k: v.contiguous() for k, v in tensors.items()}, path))
    state = {**identity, "epoch": epoch, "loss": history.loss, "weights": weights.name}
    write_atomic(folder / "state.json", lambda path: Path(path).write_text(json.dumps(state, indent=1)))
    # The older weights go last: a kill before this line leaves a state that names an existing file.
    for old in folder.glob("epoch-*.safetensors"):
        if old != weights:
            old.unlink()


def _resume(folder: Path, identity: dict, model: nn.Module, optimiser, history: History):
    if not (folder / "state.json").exists():
        return 0, history
    state = json.loads((folder / "state.json").read_text())
    for key, value in identity.items():
        if state[key] != value:
            raise ValueError(
                f"checkpoint: {folder} belongs to another run ({key} is {state[key]}, this run has {value})"
            )
    with safe_open(folder / state["weights"], framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    for index, parameter in enumerate(model.parameters()):
        buffer = tensors[f"momentum.{index}"].to(parameter.device)
        optimiser.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(buffer)
    return state["epoch"], History(state["loss"], tensors["correct"])


@torch.no_grad()
def predict(models: list[nn.Module], x: torch.Tensor, batch_size: int = 500) -> tuple[torch.Tensor, torch.Tensor]:
    """Penultimate embeddings [K, N, D] and logits [K, N, classes] of network k on x[k], in evaluation mode.

    x is [K, N, C, H, W], or [N, C, H, W] for the same samples through every network.
    """
    if x.ndim == 4:
        x = x.expand(len(models), *x.shape)
    together = Lockstep(models).eval()
    features = torch.cat(
        [together.features(x[:, i : i + batch_size].transpose(0, 1)) for i in range(0, x.shape[1], batch_size)]
    )
    return features.transpose(0, 1), together.head(features).transpose(0, 1)


def accuracy(models: list[nn.Module], x: torch.Tensor, y: torch.Tensor) -> list[float]:
    """Share of the samples x [N, C, H, W] whose largest logit is their label y [N], in [0, 1], one a network."""
    return (predict(models, x)[1].argmax(2) == y).double().mean(1).tolist()
