"""Does what was unlearned come back? Relearning from a few items, and a round trip through 4-bit weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from palimpsest.nets import language
from palimpsest.nets.language import IGNORED, Encoded
from palimpsest.pruning.decoder import decoder_layers
from palimpsest.training import TrainingDiverged, epoch_order

if TYPE_CHECKING:
    from palimpsest.pruning import Masks

LEVELS = 7
"""Largest 4-bit code: codes are -7 ... 7, so that 0 is one of them and the two signs are alike."""


def relearn(
    model: nn.Module,
    encoded: Encoded,
    measure: Callable[[], float],
    *,
    lr: float,
    epochs: int,
    seed: int,
    batch_size: int = 16,
    masks: Masks | None = None,
) -> list[float]:
    """Train `model` in place on a part of the forget set again, and measure after each epoch what else returns.

    AdamW with a constant step size and no weight decay, on the mean loss of a batch's answer tokens. With `masks`
    the pruned weights are set back to +0.0 after each step: the attacker keeps the model sparse.

    Returns epochs + 1 values of `measure()`, the first from before; `distances.steps_to_recover` reads them. Raises
    TrainingDiverged when the loss stops being finite, ValueError for the masks of another model.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr, weight_decay=0)
    if masks is not None:
        masks.require_for(model)
    curve = [measure()]
    for epoch in range(epochs):
        for rows in epoch_order(len(encoded), seed, epoch).split(batch_size):
            batch = encoded.subset(rows).to(model.device)
            try:
                loss = -language.logprobs(model, batch).sum() / (batch.labels != IGNORED).sum()
            except ValueError as error:  # the kernel refuses hidden states that are not finite
                raise TrainingDiverged(f"relearning, epoch {epoch + 1}: {error}") from error
            if not loss.isfinite():
                raise TrainingDiverged(f"relearning, epoch {epoch + 1}: the loss is {loss.item()}")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            if masks is not None:
                masks.apply_(model)
        curve.append(measure())
    return curve


@torch.no_grad()
def round_trip_4bit(model: nn.Module) -> None:
    """Replace the weights of every linear map in the decoder layers by what 4-bit codes keep of them, in place.

    Zhang et al. 2025, "Catastrophic failure of LLM unlearning via quantization" (arXiv 2410.16454): a small update
    of the weights is rounded away, and what was unlearned returns. Rounding to nearest, one scale an output row, the
    row's largest magnitude at code 7 (absmax). Their groups are our rows; embeddings, norms and the output head stay.
    A weight of +0.0 stays +0.0, so masks hold. Raises ValueError for what is not a transformers decoder.
    """
    for layer in decoder_layers(model):
        for linear in layer.linears.values():
            weight = linear.weight.to(torch.promote_types(linear.weight.dtype, torch.float32))
            scale = weight.abs().amax(1, keepdim=True) / LEVELS
            codes = (weight / scale.where(scale > 0, 1)).round()  # a row of zeros has no scale
            linear.weight.copy_(codes * scale)
