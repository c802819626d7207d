"""How a benchmark draws its inputs, and how it compares an op with float64: what the ops' bench.py share."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Draw:
    """One input of a benchmark.

    `values(shape, generator, drawn)` gives a tensor, a list of tensors or a number; `drawn` holds, by name, what
    stands before it in INPUTS, before it was cast. Floating-point tensors are cast to `dtype`, or to the case's
    where that is None, and all tensors go to `device`, or to the case's.
    """

    values: Callable
    dtype: torch.dtype | None = None
    device: str | None = None


def normal(extent: Callable[..., tuple[int, ...]], scale: Callable[..., float] | float = 1.0) -> Draw:
    """Standard normal numbers in a tensor of shape `extent(*shape)`, times `scale`, or `scale(*shape)`."""

    def values(shape, generator, drawn):
        factor = scale(*shape) if callable(scale) else scale
        return torch.randn(extent(*shape), generator=generator) * factor

    return Draw(values)


def several(draw: Draw, count: Callable[..., int] = lambda tensors, *_: tensors) -> Draw:
    """A list of `count(*shape)` tensors, each drawn by `draw`."""
    return replace(draw, values=lambda shape, *rest: [draw.values(shape, *rest) for _ in range(count(*shape))])


def derived(source: Draw | str, change: Callable) -> Draw:
    """`change` of each tensor that `source` draws anew, or of each in the input of that name."""

    def values(shape, generator, drawn):
        found = drawn[source] if isinstance(source, str) else source.values(shape, generator, drawn)
        return [change(x) for x in found]

    return Draw(values)


def make(inputs: dict[str, Draw], shape: tuple[int, ...], dtype: torch.dtype, device: str) -> dict[str, object]:
    """The arguments of one case by name, the same for equal cases."""
    generator, raw = torch.Generator().manual_seed(0), {}
    for name, draw in inputs.items():
        raw[name] = draw.values(shape, generator, raw)
    return {name: _placed(raw[name], draw.dtype or dtype, draw.device or device) for name, draw in inputs.items()}


def _placed(value, dtype, device):
    if isinstance(value, list):
        return [_placed(x, dtype, device) for x in value]
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(device, dtype) if value.is_floating_point() else value.to(device)


def with_gradients(ours: Callable, exact: Callable, inputs: list[torch.Tensor]) -> tuple:
    """(value, exact value, weight of the value, [(gradient, exact gradient) of each input]): `ours` on `inputs`,
    `exact` on their float64 copies, differentiated at weights from -1 to 1."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    twins = [x.detach().double().requires_grad_() for x in inputs]
    value, right = ours(*inputs), exact(*twins)
    weight = torch.linspace(-1, 1, value.numel(), dtype=value.dtype, device=value.device).view_as(value)
    grads = torch.autograd.grad(value, inputs, weight)
    exact_grads = torch.autograd.grad(right, twins, weight.double())
    return value.detach(), right.detach(), weight, list(zip(grads, exact_grads, strict=True))
