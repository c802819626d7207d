"""Learned step-size quantisation with a straight-through gradient. Derivation: README.md."""

import math

import torch
from torch.autograd.function import once_differentiable

from palimpsest.kernels import _dispatch
from palimpsest.kernels.lsq_quantize import inplace, reference

LARGEST_CODE = 2**22
"""Of either sign. Rounding by adding 1.5 * 2^23, as triton.py does in float32, holds up to here."""

FEW = 64
"""Steps that Python compares sooner than torch finds their extremes."""


class _LsqQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, step, qn, qp, axis, path):
        ctx.save_for_backward(x, step)
        ctx.arguments, ctx.path = (qn, qp, axis), path
        return path.forward(x, step, qn, qp, axis)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        return *ctx.path.backward(*ctx.saved_tensors, grad_output, *ctx.arguments), None, None, None, None


def lsq_quantize(
    x: torch.Tensor, step: torch.Tensor, qn: int, qp: int, axis: int = 0, *, backend: str | None = None
) -> torch.Tensor:
    """s round(clip(x / s, qn, qp)), halves rounded to even, with the gradients of LSQ.

    As Q-MUL's released code quantises (arXiv 2503.13917), after LSQ (arXiv 1902.08153, equations 1 to 3). The
    gradient of x is that of the output where qn <= x/s <= qp, else 0. The gradient of s is g times the sum, over
    the elements that share s, of the output's gradient times qn below, qp above, round(x/s) - x/s inside;
    g = 1 / sqrt(n qp), n being the number of these elements: x.numel() for one step, x.numel() / C for C steps.
    Our reading: both bounds count as inside, and n counts the batch too. Differentiable once; two calls give the
    same bits. NaN in x gives NaN there and in the gradient of its step.

    Args:
        x: any shape, float16, bfloat16, float32 or float64, any strides.
        step: s > 0, float32 or the dtype of x: [] or [1] for one step, or [C] with C = x.shape[axis]. Groups of
            channels are had by a view of x as [G, ...] or [N, G, ...].
        qn: smallest code, -2^22 <= qn <= 0.
        qp: largest code, 0 < qp <= 2^22.
        axis: of the channels; not used with one step.
        backend: None takes Triton on CUDA tensors and the in-place torch path on CPU; "reference" is the plain
            definition; "triton" on CPU tensors needs TRITON_INTERPRET=1 before triton is first imported.

    Returns:
        Shape and dtype of x, and its strides where x is dense.

    Raises:
        ValueError: not floating-point tensors, a step of another shape, dtype or device, codes out of range,
            unknown axis or backend; on CPU also a step that is not finite and positive (on CUDA, where the host
            would have to wait, it is not looked for and gives NaN or a wrong result).
        BackendUnavailableError: "triton" forced where it cannot run; it says why.
    """
    _require_arguments(x, step, qn, qp, axis)
    chosen = _dispatch.choose("lsq_quantize", backend, x.device, "torch-inplace")
    if chosen == "reference" or x.numel() == 0:
        return reference.lsq_quantize(x, step, qn, qp, axis)
    if chosen == "triton":
        from palimpsest.kernels.lsq_quantize import triton as path
    else:
        path = inplace
    if torch.is_grad_enabled() and (x.requires_grad or step.requires_grad):
        return _LsqQuantize.apply(x, step, qn, qp, axis, path)
    return path.forward(x, step, qn, qp, axis)


def _require_arguments(x, step, qn, qp, axis):
    for name, value in (("x", x), ("step", step)):
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{name}: got {type(value).__name__}, want a tensor")
    if x.dtype not in _dispatch.FLOATS:
        raise ValueError(f"x: got dtype {x.dtype}, want float16, bfloat16, float32 or float64")
    if step.dtype not in (torch.float32, x.dtype):
        raise ValueError(f"step: got dtype {step.dtype}, want float32 or that of x, {x.dtype}")
    if step.device != x.device:
        raise ValueError(f"step: got device {step.device}, want that of x, {x.device}")
    for name, value, low, high in (("qn", qn, -LARGEST_CODE, 0), ("qp", qp, 1, LARGEST_CODE)):
        if not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{name}: got {value!r}, want an integer from {low} to {high}")
    if step.ndim > 1 or step.numel() != 1:
        if not isinstance(axis, int) or not -x.ndim <= axis < x.ndim:
            raise ValueError(f"axis: got {axis!r}, want one of the {x.ndim} dimensions of x")
        if step.ndim != 1 or len(step) != x.shape[axis]:
            want = f"[], [1] or [{x.shape[axis]}], one for each channel"
            raise ValueError(f"step: got shape {list(step.shape)}, want {want}")
    if not step.is_cuda:
        _require_positive(step)


def _require_positive(step):
    """Finite and above 0. Few numbers are read one by one, of many the extremes, which are NaN where one is."""
    if step.numel() == 1:
        bounds = (step.item(),)
    elif step.numel() <= FEW:
        bounds = step.tolist()
    else:
        bounds = [bound.item() for bound in step.detach().aminmax()]
    if all(0 < bound < math.inf for bound in bounds):
        return
    channel, value = next((i, s) for i, s in enumerate(step.view(-1).tolist()) if not 0 < s < math.inf)
    raise ValueError(f"step: got {value} at channel {channel}, want finite steps above 0")
