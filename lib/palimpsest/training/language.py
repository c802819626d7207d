"""Training of language models on questions and answers."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from palimpsest.checks import require_count, require_number
from palimpsest.nets.language import IGNORED, Encoded, logprobs
from palimpsest.training import checkpoints
from palimpsest.training.loop import Run, TrainingDiverged, descend
from palimpsest.training.seeds import epoch_order


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
        require_count("epochs", self.epochs)
        require_count("batch_size", self.batch_size)
        require_number("lr", self.lr)
        require_number("weight_decay", self.weight_decay, least=0)
        require_number("warmup", self.warmup, least=0, most=1)

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
    nats. Parameters that want no gradient stay; gradients are clipped to norm `loop.CLIP`.

    With `checkpoint` (a folder) the state is written after each epoch, and an earlier state of the *same* run is
    continued to the same bits: pass the model as it was at its start. The folder of another run raises ValueError.
    `show` labels a progress bar. Raises TrainingDiverged when a loss or a gradient stops being finite; the last good
    checkpoint is kept.
    """
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    optimiser = torch.optim.AdamW(parameters.values(), recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    batches = math.ceil(len(encoded) / recipe.batch_size)
    total = recipe.epochs * batches
    run = Run(
        checkpoint,
        lambda: {
            "recipe": asdict(recipe),
            "seed": seed,
            "data": checkpoints.digest([encoded.ids, encoded.labels]),
            "start": checkpoints.digest(parameters.values()),
        },
    )
    losses = run.values.setdefault("loss", [])

    def epoch(number: int) -> Iterator[None]:
        mean = 0.0
        for rows in epoch_order(len(encoded), seed, number).tensor_split(batches):
            yield
            batch = encoded.subset(rows)
            # Columns beyond the last label feed no prediction that counts.
            width = int((batch.labels != IGNORED).any(0).nonzero().max()) + 1
            loss = answer_loss(model, Encoded(batch.ids[:, :width], batch.labels[:, :width]))
            mean += descend(loss, parameters, optimiser) / batches
        losses.append(mean)

    run.train(
        epoch,
        parameters,
        optimiser,
        steps=total,
        every=batches,
        lr=recipe.lr,
        rate=lambda step: recipe.lr_at(step, total),
        show=show,
    )
    return losses


def answer_loss(model: nn.Module, batch: Encoded) -> torch.Tensor:
    """Mean loss of the batch's answer tokens, in nats, a scalar. Raises TrainingDiverged where hidden states are not
    finite."""
    try:
        return -logprobs(model, batch).sum() / (batch.labels != IGNORED).sum()
    except ValueError as error:  # the kernel refuses them
        raise TrainingDiverged(str(error)) from error
