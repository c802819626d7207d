"""Entropy of the softmax of every row of logits. Derivation: README.md."""

import torch
from torch.autograd.function import once_differentiable

from palimpsest.kernels import _dispatch
from palimpsest.kernels.softmax_entropy import chunked, few, reference
from palimpsest.kernels.tolerances import accumulation_dtype


class _SoftmaxEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, path):
        entropy, *statistics = path.forward(logits)
        ctx.save_for_backward(logits, *statistics)
        ctx.path = path
        return entropy

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        return ctx.path.backward(*ctx.saved_tensors, grad_output), None


def softmax_entropy(logits: torch.Tensor, backend: str | None = None) -> torch.Tensor:
    """H(p_n) = -sum_k p_nk ln p_nk of p = softmax(logits), in nats; 0 <= H <= ln K up to rounding.

    The entropy that OEU maximises on forgotten data (arXiv 2602.00567; the abstract states the objective, the
    equations are our reading). Above 262,144 logits (1 MB in float32), and with Triton, no
    probability matrix is kept for the backward pass: it computes the probabilities again from the logits.
    Differentiable once; two calls give the same bits.

    Args:
        logits: [N, K] float16, bfloat16, float32 or float64, any strides. -inf means probability zero.
        backend: None takes Triton on CUDA tensors and the chunked torch path on CPU; "reference" is the plain
            definition; "triton" on CPU tensors needs TRITON_INTERPRET=1 before triton is first imported.

    Returns:
        [N] float32, or float64 for float64 logits; empty where N is 0.

    Raises:
        ValueError: not a tensor, not floating point, not 2-D, K = 0, unknown backend; on CPU also a row with
            NaN or +inf, or with -inf only (on CUDA such a row gives NaN).
        BackendUnavailableError: "triton" forced where it cannot run; it says why.
    """
    _dispatch.require_float_tensor("logits", logits, "[N, K]")
    rows, width = logits.shape
    if width == 0:
        raise ValueError("logits: got K = 0, want at least one column")
    chosen = _dispatch.choose("softmax_entropy", backend, logits.device, "torch-chunked")
    if rows == 0:
        return logits.sum(-1, dtype=accumulation_dtype(logits.dtype))
    direct = chosen == "torch-chunked" and few.MOST < rows * width <= chunked.DIRECT and not logits.is_cuda
    if chosen == "reference":
        entropy = reference.softmax_entropy(logits)
    elif direct:
        entropy = chunked.direct(logits)
    else:
        if chosen == "triton":
            from palimpsest.kernels.softmax_entropy import triton as path
        else:
            path = few if rows * width <= few.MOST else chunked
        graph = logits.requires_grad and torch.is_grad_enabled()
        entropy = _SoftmaxEntropy.apply(logits, path) if graph else path.forward(logits)[0]
    if not _dispatch.all_finite(entropy):
        _dispatch.require_distribution("logits", logits)
        if direct:  # alone in taking no care of -inf
            entropy = reference.softmax_entropy(logits)
    return entropy
