"""Jensen-Shannon divergence of every row of one matrix to every row of another. Derivation: README.md."""

import torch
from torch.autograd.function import once_differentiable

from palimpsest.kernels import _dispatch
from palimpsest.kernels.jensen_shannon import chunked, reference
from palimpsest.kernels.tolerances import accumulation_dtype


class _JensenShannon(torch.autograd.Function):
    @staticmethod
    def forward(ctx, p_logits, q_logits, path):
        divergence, *kept = path.forward(p_logits, q_logits)
        ctx.save_for_backward(p_logits, q_logits, *kept)
        ctx.path = path
        return divergence

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        return *ctx.path.backward(*ctx.saved_tensors, grad_output), None


def jensen_shannon(p_logits: torch.Tensor, q_logits: torch.Tensor, backend: str | None = None) -> torch.Tensor:
    """J(p_n, q_c) of all pairs, p = softmax(p_logits), q = softmax(q_logits), in nats, without square root.

    J = KL(p || m) / 2 + KL(q || m) / 2 with m = (p + q) / 2 (Lin, IEEE Trans. Inf. Theory 37(1), 1991,
    section IV, equal weights); 0 <= J <= ln 2, symmetric, and 0 for equal rows. N x C x D is never held,
    except by "reference". Differentiable once in both arguments; two calls give the same bits.

    Args:
        p_logits: [N, D] float16, bfloat16, float32 or float64, any strides. -inf means probability zero.
        q_logits: [C, D], same dtype and device.
        backend: None takes Triton on CUDA tensors and the chunked torch path on CPU; "reference" is the plain
            definition; "triton" on CPU tensors needs TRITON_INTERPRET=1 before triton is first imported.

    Returns:
        [N, C] float32, or float64 for float64 logits; empty where N or C is 0.

    Raises:
        ValueError: not a tensor, not floating point, not 2-D, unequal D, dtype or device, D = 0, unknown
            backend; on CPU also a row with NaN or +inf, or with -inf only (on CUDA such a row gives NaN).
        BackendUnavailableError: "triton" forced where it cannot run; it says why.
    """
    _dispatch.require_matrices("p_logits", p_logits, "[N, D]", "q_logits", q_logits, "[C, D]")
    (rows, width), (others, other_width) = p_logits.shape, q_logits.shape
    if width == 0:
        raise ValueError("p_logits: got D = 0, want at least one column")
    if width != other_width:
        raise ValueError(f"q_logits: got D = {other_width}, want that of p_logits, {width}")
    chosen = _dispatch.choose("jensen_shannon", backend, p_logits.device, "torch-chunked")
    if rows == 0 or others == 0:
        dtype = accumulation_dtype(p_logits.dtype)
        return (p_logits @ q_logits.t()).to(dtype)
    if chosen == "reference":
        divergence = reference.jensen_shannon(p_logits, q_logits)
    else:
        if chosen == "triton":
            from palimpsest.kernels.jensen_shannon import triton as path
        else:
            path = chunked
        if torch.is_grad_enabled() and (p_logits.requires_grad or q_logits.requires_grad):
            divergence = _JensenShannon.apply(p_logits, q_logits, path)
        else:
            divergence = path.forward(p_logits, q_logits)[0]
    if not _dispatch.all_finite(divergence.view(-1)):
        _dispatch.require_distribution("p_logits", p_logits)
        _dispatch.require_distribution("q_logits", q_logits)
    return divergence
