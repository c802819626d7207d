"""Training of language models on questions and answers."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from palimpsest.nets.language import IGNORED, Encoded, logprobs
from palimpsest.runs.progress import progress_bar

from . import checkpoints
from .classifiers import TrainingDiverged, epoch_order

CLIP = 1.0
"""Largest norm of a gradient; the default of transformers' trainer."""
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Recipe:
    """How `fit` trains: AdamW, the step size rising linearly to `lr` over the first `warmup` (a share of all updates)
    and then falling to zero along a cosine. Raises ValueError for a value that cannot be meant."""

    epochs: int
    lr: float
    batch_size: int = 32
    weight_decay: float = 0.01
    warmup: float = 0.1

    def __post_init__(self):
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: got {value!r}, want an integer of at least 1")
        for name, most in (("lr", math.inf), ("weight_decay", math.inf), ("warmup", 1)):
            value = getattr(self, name)
            number = isinstance(value, int | float) and math.isfinite(value)
            if not number or not 0 <= value <= most or (name == "lr" and value == 0):
                raise ValueError(f"{name}: got {value!r}, want a number from 0 to {most}; lr above 0")

    def lr_at(self, step: int, total: int) -> float:
        """The step size of update `step` of `total`, counted from 0."""
        rising = math.ceil(self.warmup * total)
        if step < rising:
            return self.lr * (step + 1) / rising
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - rising) / (total - rising)))


def fit(
    model: nn.Module,
    encoded: Encoded,
    recipe: Recipe,
    seed: int,
    *,
    checkpoint: Path | None = None,
    show: str | None = None,
) -> list[float]:
    """Train `model` in place on the mean loss of a batch's answer tokens; returns each epoch's mean over batches, in
    nats. Parameters that want no gradient stay; gradients are clipped to norm CLIP.

    With `checkpoint` (a folder) the state is written after each epoch, and an earlier state of the *same* run is
    continued to the same bits: pass the model as it was at its start. The folder of another run raises ValueError.
    `show` labels a progress bar. Raises TrainingDiverged when a loss or a gradient stops being finite; the last good
    checkpoint is kept.
    """
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    optimiser = torch.optim.AdamW(parameters.values(), recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    batches = math.ceil(len(encoded) / recipe.batch_size)
    total, epoch, losses = recipe.epochs * batches, 0, []
    if checkpoint is not None:
        identity = {
            "recipe": asdict(recipe),
            "seed": seed,
            "data": checkpoints.digest([encoded.ids, encoded.labels]),
            "start": checkpoints.digest(parameters.values()),
        }
        epoch, tensors, values = checkpoints.load(checkpoint, identity)
        losses = values.get("loss", [])
        if epoch:
            _restore(parameters, optimiser, tensors, epoch * batches)
    with progress_bar(total=recipe.epochs, initial=epoch, desc=show) as bar:
        while epoch < recipe.epochs:
            total_loss = 0.0
            for index, batch in enumerate(epoch_order(len(encoded), seed, epoch).tensor_split(batches)):
                for group in optimiser.param_groups:
                    group["lr"] = recipe.lr_at(epoch * batches + index, total)
                total_loss += _update(model, optimiser, encoded.subset(batch), f"epoch {epoch + 1}") / batches
            epoch += 1
            losses.append(total_loss)
            if checkpoint is not None:
                state = {f"model.{name}": value for name, value in parameters.items()}
                for name, value in parameters.items():
                    kept = optimiser.state[value]
                    state |= {f"{moment}.{name}": kept[moment] for moment in MOMENTS}
                checkpoints.save(checkpoint, identity, epoch, state, {"loss": losses})
            bar.update()
    return losses


def _update(model, optimiser, batch, when):
    """One step of `optimiser` on `batch`; its loss."""
    # Columns beyond the last label feed no prediction that counts.
    width = int((batch.labels != IGNORED).any(0).nonzero().max()) + 1
    batch = Encoded(batch.ids[:, :width], batch.labels[:, :width])
    try:
        loss = -logprobs(model, batch).sum() / (batch.labels != IGNORED).sum()
    except ValueError as error:  # the kernel refuses hidden states that are not finite
        raise TrainingDiverged(f"{when}: {error}; a smaller lr is needed") from error
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = clip_grad_norm_(model.parameters(), CLIP)
    if not (loss.isfinite() and norm.isfinite()):
        raise TrainingDiverged(
            f"{when}: the loss is {loss.item()}, the norm of its gradient {norm.item()}; a smaller lr is needed"
        )
    optimiser.step()
    return loss.item()


def _restore(parameters, optimiser, tensors, steps):
    for name, parameter in parameters.items():
        with torch.no_grad():
            parameter.copy_(tensors[f"model.{name}"])
        moments = {m: torch.empty_like(parameter).copy_(tensors[f"{m}.{name}"]) for m in MOMENTS}
        optimiser.state[parameter] = {"step": torch.tensor(float(steps), device=parameter.device), **moments}
