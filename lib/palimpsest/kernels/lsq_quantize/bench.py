"""Learned step-size quantisation to 4 bits beside its peers."""

import torch

from palimpsest.kernels.inputs import Draw, with_gradients
from palimpsest.kernels.lsq_quantize import lsq_quantize, reference
from palimpsest.kernels.tolerances import accumulation_dtype, admitted_error

SHAPES = {
    "cpu": ((1_000,), (16_384,), (1_000_000,), (64, 576), (512, 4_608), (16, 8, 16, 16, 16)),
    "cuda": ((16_384,), (1 << 20,), (1 << 26,), (512, 4_608), (256, 16, 64, 32, 32)),
}
"""(n,): one step. (C, n): weights, a step per row. (N, K, C, H, W): channels-last activations of K networks in
lockstep, a step per network."""
DTYPES = {"cpu": (torch.float32,), "cuda": (torch.float32, torch.bfloat16)}
DIRECTIONS = ("forward", "backward")
QN, QP = -8, 7


def _values(shape, generator, _):
    x = torch.randn(shape, generator=generator)
    if len(shape) == 5:
        n, k, c, height, width = shape
        x = x.view(n, k * c, height, width).contiguous(memory_format=torch.channels_last).view(shape)
    return x


def _near_first_step(shape, generator, _):
    """s0 = 2 mean |x| / sqrt(QP) is 0.6 for normal x, and clips few."""
    return 0.6 + 0.1 * torch.rand(_steps(shape), generator=generator)


INPUTS = {"x": Draw(_values), "step": Draw(_near_first_step, dtype=torch.float32)}


def _steps(shape):
    return {1: (), 2: shape[:1], 5: shape[1:2]}[len(shape)]


def _axis(x):
    return 1 if x.ndim == 5 else 0


def ours(x, step):
    return lsq_quantize(x, step, QN, QP, _axis(x))


def eager(x, step):
    """As LSQ is commonly written: identities around detached differences scale the gradient and pass the rounding."""
    factor = (step.numel() / (x.numel() * QP)) ** 0.5
    scaled = step * factor
    scaled = (step - scaled).detach() + scaled
    if step.ndim:
        scaled = scaled.view(-1, *(1,) * (x.ndim - 1 - _axis(x)))
    y = (x.to(accumulation_dtype(x.dtype)) / scaled).clamp(QN, QP)
    return (((y.round() - y).detach() + y) * scaled).to(x.dtype)


def _learnable_fake_quantize(x, step):
    """Its straight-through range is that of the rounded code, half a step wider at either end."""
    factor, zero = (step.numel() / (x.numel() * QP)) ** 0.5, torch.zeros_like(step).view(-1)
    if step.ndim == 0:
        return torch._fake_quantize_learnable_per_tensor_affine(x, step.view(1), zero, QN, QP, factor)
    return torch._fake_quantize_learnable_per_channel_affine(x, step, zero, _axis(x), QN, QP, factor)


PEERS = {"learnable fake_quantize": _learnable_fake_quantize}


def bytes_moved(shape, dtype, direction):
    """Forward: x read, result written. Backward: x and gradient read, gradient written. Steps: read, written."""
    elements, steps = torch.Size(shape).numel() * dtype.itemsize, torch.Size(_steps(shape)).numel() * 4
    return 2 * elements + steps if direction == "forward" else 3 * elements + 2 * steps


def agreement(x, step):
    """Value and both gradients where float64 takes the same codes."""
    rest = QN, QP, _axis(x)
    decided = reference.decided(x, step, *rest)
    value, exact, weight, (of_x, of_step) = with_gradients(
        lambda x, step: lsq_quantize(x, step, *rest) * decided,
        lambda x, step: reference.lsq_quantize(x, step, *rest) * decided,
        [x, step],
    )
    weight = weight * decided
    yield "value", value, exact, admitted_error(x.dtype, 1, exact.abs())
    # float64 multiplies by s and divides by it again: one rounding each of its own.
    yield "gradient of x", *of_x, admitted_error(torch.float64, 2, weight.double().abs())
    scale = reference.gradient_scale(x, step, weight, *rest)
    yield "gradient of step", *of_step, admitted_error(step.dtype, x.numel() // step.numel(), scale)
