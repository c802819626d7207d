"""RMU: representation misdirection for unlearning (Li et al. 2024, WMDP, arXiv 2403.03218)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from palimpsest.checks import require_number
from palimpsest.pruning.decoder import decoder_layers
from palimpsest.unlearning.language.method import Objective
from palimpsest.unlearning.language.task import Batch, Task


@dataclass(frozen=True)
class RMU(Objective):
    """‖h − c·u‖²/D on forget sequences, + α·‖h − h_ref‖²/D on retain ones: h [D] what layer `layer` (from 0) writes
    at a position that predicts an answer token (the prompt's last among them, the answer's last not), h_ref the same
    of the model as it was given, u a random direction of length 1. Mean over an answer's positions, then over
    sequences.

    Stated by the paper: both losses, u drawn uniformly from [0, 1)^D and normalised, layer 7 of Zephyr-7B. open-
    unlearning for TOFU: layer 7 of 16, c = 2, γ = α = 1, all parameters trained. Our reading: where `layer` is None,
    the layer at the same depth, ⌊7/16 of their number⌋. open-unlearning takes the answer tokens' own positions, and
    divides its sums [B] by its counts [B, 1], a table of all pairs: so its loss is the mean of the sums times the
    mean of 1/count, where ours divides each sum by its own count.
    """

    steering: float = 2.0
    layer: int | None = None

    def __post_init__(self):
        super().__post_init__()
        require_number("steering", self.steering)
        if self.layer is not None and (isinstance(self.layer, bool) or not isinstance(self.layer, int)):
            raise ValueError(f"layer: got {self.layer!r}, want an integer or None")

    def begin(self, task: Task) -> None:
        layers = decoder_layers(task.model)
        if self.layer is not None and not 0 <= self.layer < len(layers):
            raise ValueError(f"layer: got {self.layer}, want 0 to {len(layers) - 1}")
        for part in task.drawn.split(task.batch_size):
            batch = task.batch(task.retain, part)
            with torch.no_grad():
                written = self.activations(task, batch)
            for row, own, counted in zip(part.tolist(), written, batch.counted, strict=True):
                task.cache[f"written.{row}"] = own[counted]
        direction = torch.rand(written.shape[2], generator=task.generator("direction"), dtype=torch.float64)
        task.cache["target"] = (self.steering * direction / direction.norm()).to(written)

    def activations(self, task: Task, batch: Batch) -> Tensor:
        """What the layer writes, [B, T, D]."""
        layers, caught = decoder_layers(task.model), []
        layer = layers[7 * len(layers) // 16 if self.layer is None else self.layer]
        hook = layer.module.register_forward_hook(lambda _, __, output: caught.append(output))
        try:
            task.hidden(batch)
        finally:
            hook.remove()
        return caught[0][0] if isinstance(caught[0], tuple) else caught[0]

    def forget_loss(self, task: Task, batch: Batch) -> Tensor:
        return _distance(self.activations(task, batch)[batch.counted], task.cache["target"], batch)

    def retain_loss(self, task: Task, batch: Batch) -> Tensor:
        before = torch.cat([task.cache[f"written.{row}"] for row in batch.rows.tolist()])
        return _distance(self.activations(task, batch)[batch.counted], before, batch)


def _distance(written: Tensor, target: Tensor, batch: Batch) -> Tensor:
    """Mean over sequences of the mean over those that count, whose `written` [tokens, D] are, row after row."""
    counts = batch.counted.sum(1)
    weights = (counts * len(counts)).to(written.dtype).reciprocal().repeat_interleave(counts)
    return (weights * (written - target).square().mean(1)).sum()
