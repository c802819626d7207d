"""Copies of a model's weights: where a run was, and the way back; and weights with their masks as one artifact."""

import torch
from torch import Tensor


def state(moving: dict[str, Tensor]) -> dict[str, Tensor]:
    """A copy of the parameters, by name."""
    return {name: parameter.detach().clone() for name, parameter in moving.items()}


@torch.no_grad()
def put(moving: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    """Set every parameter to the value of its name."""
    for name, parameter in moving.items():
        parameter.copy_(values[name])


@torch.no_grad()
def put_between(moving: dict[str, Tensor], low: dict[str, Tensor], high: dict[str, Tensor], share: float) -> None:
    """θ = low + share · (high − low); where both are +0.0, so is θ."""
    for name, parameter in moving.items():
        parameter.copy_(low[name].lerp(high[name], share))


def together(weights: dict[str, Tensor], kept: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights and masks under one name each, as an artifact keeps them."""
    return {f"weight.{n}": w.detach() for n, w in weights.items()} | {f"kept.{n}": mask for n, mask in kept.items()}


def apart(found: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(weights, masks) of what `together` gave."""
    weights, kept = (
        {name.removeprefix(part): value for name, value in found.items() if name.startswith(part)}
        for part in ("weight.", "kept.")
    )
    return weights, kept
