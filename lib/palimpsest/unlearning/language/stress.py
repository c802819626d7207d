"""Does what was unlearned come back? Relearning from a few items, and a round trip through 4-bit weights."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import nn

from palimpsest.nets.language import Encoded
from palimpsest.pruning import Masks
from palimpsest.pruning.decoder import decoder_layers, require_linear
from palimpsest.training.language import answer_loss
from palimpsest.training.loop import Run, TrainingDiverged
from palimpsest.training.seeds import epoch_order

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
    updates = math.ceil(len(encoded) / batch_size)
    curve = [measure()]

    def epoch(number: int) -> Iterator[None]:
        for rows in epoch_order(len(encoded), seed, number).split(batch_size):
            yield
            loss = answer_loss(model, encoded.subset(rows).to(model.device))
            if not loss.isfinite():
                raise TrainingDiverged(f"the loss is {loss.item()}")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            if masks is not None:
                masks.apply_(model)

    Run().train(
        epoch,
        dict(model.named_parameters()),
        optimiser,
        steps=epochs * updates,
        every=updates,
        lr=lr,
        after=lambda _: curve.append(measure()),
    )
    return curve


@torch.no_grad()
def round_trip_4bit(model: nn.Module) -> None:
    """Replace the weights of every linear map in the decoder layers by what 4-bit codes keep of them, in place.

    Zhang et al. 2025, "Catastrophic failure of LLM unlearning via quantization" (arXiv 2410.16454): a small update
    of the weights is rounded away, and what was unlearned returns. Rounding to nearest, one scale per output row, the
    row's largest magnitude at code 7 (absmax). Their groups are our rows; embeddings, norms and the output head stay.
    A weight of +0.0 stays +0.0, so masks hold. Raises ValueError for what is not a transformers decoder
    or holds much outside linear maps (`pruning.decoder.require_linear`).
    """
    require_linear(model)
    for layer in decoder_layers(model):
        for linear in layer.linears.values():
            weight = linear.weight.to(torch.promote_types(linear.weight.dtype, torch.float32))
            scale = weight.abs().amax(1, keepdim=True) / LEVELS
            codes = (weight / scale.where(scale > 0, 1)).round()  # a row of zeros has no scale
            linear.weight.copy_(codes * scale)
