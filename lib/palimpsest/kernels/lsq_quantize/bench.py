"""Learned step-size quantisation to 4 bits beside its peers; the pattern is described in kernels/bench.py."""

import torch

from palimpsest.kernels.lsq_quantize import lsq_quantize, reference
from palimpsest.kernels.tolerances import accumulation_dtype, admitted_error

SHAPES = {
    "cpu": ((1_000,), (16_384,), (1_000_000,), (64, 576), (512, 4_608), (16, 8, 16, 16, 16)),
    "cuda": ((16_384,), (1 << 20,), (1 << 26,), (512, 4_608), (256, 16, 64, 32, 32)),
}
"""(n,): one step. (C, n): weights, a step a row. (N, K, C, H, W): channels-last activations of K networks in
lockstep, a step a network."""
DTYPES = {"cpu": (torch.float32,), "cuda": (torch.float32, torch.bfloat16)}
DIRECTIONS = ("forward", "backward")
QN, QP = -8, 7


def make_inputs(shape, dtype, device):
    """Normal x, and steps near s0 = 2 mean |x| / sqrt(QP), which clip few."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(device, dtype)
    if len(shape) == 5:
        n, k, c, height, width = shape
        x = x.view(n, k * c, height, width).contiguous(memory_format=torch.channels_last).view(shape)
    step = 0.6 + 0.1 * torch.rand(_steps(shape), generator=generator)
    return x, step.to(device)


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
    axis = _axis(x)
    x, step = x.detach().requires_grad_(), step.detach().requires_grad_()
    exact_x, exact_step = (t.detach().double().requires_grad_() for t in (x, step))
    value, exact = ours(x, step), reference.lsq_quantize(exact_x, exact_step, QN, QP, axis)
    decided = reference.decided(x.detach(), step.detach(), QN, QP, axis)
    yield "value", value * decided, exact * decided, admitted_error(x.dtype, 1, exact.detach().abs())
    weight = torch.linspace(-1, 1, x.numel(), device=x.device).view(x.shape).to(x.dtype) * decided
    grad_x, grad_step = torch.autograd.grad(value, (x, step), weight)
    exact_grad_x, exact_grad_step = torch.autograd.grad(exact, (exact_x, exact_step), weight.double())
    # float64 multiplies by s and divides by it again: one rounding each of its own.
    yield "gradient of x", grad_x, exact_grad_x, admitted_error(torch.float64, 2, weight.double().abs())
    scale = reference.gradient_scale(x.detach(), step.detach(), weight, QN, QP, axis)
    yield (
        "gradient of step",
        grad_step,
        exact_grad_step,
        admitted_error(step.dtype, x.numel() // step.numel(), scale),
    )
