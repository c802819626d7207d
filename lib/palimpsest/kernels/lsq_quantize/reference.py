"""The definition, in plain torch. Equation numbers are those of README.md in this folder."""

import torch

from palimpsest.kernels.tolerances import accumulation_dtype


class _RoundStraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value.round()

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value, factor):
        ctx.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * ctx.factor, None


def broadcast(step: torch.Tensor, x: torch.Tensor, axis: int) -> torch.Tensor:
    """`step` ([], [1] or [C]) as a view that multiplies `x` along `axis`."""
    if step.ndim == 0:
        return step
    if len(step) == 1:
        return step.view(())
    return step.view(-1, *(1,) * (x.ndim - 1 - axis % x.ndim))


def gradient_factor(x: torch.Tensor, step: torch.Tensor, qp: int) -> float:
    """Equation (4): g of the elements that share a step; 0 where there are none."""
    return (step.numel() / (x.numel() * qp)) ** 0.5 if x.numel() else 0.0


def quotient(x: torch.Tensor, step: torch.Tensor, axis: int = 0) -> torch.Tensor:
    """x / step, rounded once to the accumulation dtype: what every path takes the code from."""
    dtype = accumulation_dtype(x.dtype)
    return x.to(dtype) / broadcast(step, x, axis).to(dtype)


def codes(x: torch.Tensor, step: torch.Tensor, qn: int, qp: int, axis: int = 0) -> torch.Tensor:
    """Equation (1): the integers q, shaped as x, as float32 (float64 for float64).

    ``codes(x, step, qn, qp, axis) * step`` has the bits of the op's result in float32, on every path.
    """
    return quotient(x, step, axis).clamp(qn, qp).round()


def lsq_quantize(x: torch.Tensor, step: torch.Tensor, qn: int, qp: int, axis: int = 0) -> torch.Tensor:
    """Equations (1) to (4), differentiated by autograd.

    Args:
        x: any shape, any float dtype; computed in float32, or float64 for float64.
        step: [], [1], or [C] with C = x.shape[axis]; float32 or the dtype of x.
        qn: smallest code.
        qp: largest code.
        axis: of the channels.

    Returns:
        As x.
    """
    dtype = accumulation_dtype(x.dtype)
    s = broadcast(_ScaleGradient.apply(step, gradient_factor(x, step, qp)), x, axis).to(dtype)
    return (_RoundStraightThrough.apply((x.to(dtype) / s).clamp(qn, qp)) * s).to(x.dtype)


def decided(x: torch.Tensor, step: torch.Tensor, qn: int, qp: int, axis: int = 0) -> torch.Tensor:
    """Whether the exact quotient has the code, and the side of qn and qp, of the rounded one; bool, shaped as x.

    It has not within a rounding error of a half or of a bound. There float64 decides otherwise, by a whole step.
    """
    rounded, exact = quotient(x, step, axis).double(), quotient(x.double(), step, axis)
    same_code = rounded.clamp(qn, qp).round() == exact.clamp(qn, qp).round()
    same_side = ((qn <= rounded) & (rounded <= qp)) == ((qn <= exact) & (exact <= qp))
    return same_code & same_side


def gradient_scale(
    x: torch.Tensor, step: torch.Tensor, grad_output: torch.Tensor, qn: int, qp: int, axis: int = 0
) -> torch.Tensor:
    """Equation (5): the sum of |terms| of the gradient of step, float64, shaped as step."""
    y = quotient(x.double(), step, axis)
    code, inside = y.clamp(qn, qp).round(), (qn <= y) & (y <= qp)
    size = grad_output.double().abs() * torch.where(inside, (code - y).abs() + y.abs(), code.abs())
    return size.sum_to_size(broadcast(step, x, axis).shape).view(step.shape) * gradient_factor(x, step, qp)
