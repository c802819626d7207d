"""The k most probable tokens, renormalised, and the confidence that their entropy gives. Derivation: README.md."""

import torch

from palimpsest.kernels import _dispatch
from palimpsest.kernels.tolerances import accumulation_dtype
from palimpsest.kernels.topk_confidence import grouped, reference

MOST = 1024
"""Largest k."""


def topk_confidence(
    logits: torch.Tensor, k: int, backend: str | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Top-k tokens, their probabilities renormalised to sum 1, and alpha = 1 - entropy / ln k, of every row.

    SAGE, arXiv 2602.00523, equations 7 to 9 (stated by the paper, with k = 10). Our reading: of equal logits the
    lower index comes first; alpha is 1 for k = 1, where the paper's ln k is 0. Not differentiable: the results carry
    no graph. Two calls give the same bits.

    Args:
        logits: [N, V] float16, bfloat16, float32 or float64, any strides. -inf means probability zero.
        k: 1 ... min(V, 1024).
        backend: None takes Triton on CUDA tensors and the grouped torch path on CPU; "reference" is the plain
            definition; "triton" on CPU tensors needs TRITON_INTERPRET=1 before triton is first imported.

    Returns:
        probs [N, k] float32, or float64 for float64 logits, falling; ids [N, k] int64; alpha [N] in 0 ... 1, in the
        dtype of probs.

    Raises:
        ValueError: not a tensor, not floating point, not 2-D, k not such an integer, unknown backend; on CPU also a
            row with NaN or +inf, or with -inf only (on CUDA such a row gives NaN).
        BackendUnavailableError: "triton" forced where it cannot run; it says why.
    """
    _dispatch.require_float_tensor("logits", logits, "[N, V]")
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= min(logits.shape[1], MOST):
        raise ValueError(f"k: got {k!r}, want an integer in 1 ... min(V, {MOST}), V = {logits.shape[1]}")
    chosen = _dispatch.choose("topk_confidence", backend, logits.device, "torch-grouped")
    logits = logits.detach()
    if logits.shape[0] == 0:
        probs = logits[:, :k].to(accumulation_dtype(logits.dtype), copy=True)
        return probs, torch.zeros_like(probs, dtype=torch.int64), probs[:, 0].clone()
    if chosen == "reference":
        path = reference
    elif chosen == "triton":
        from palimpsest.kernels.topk_confidence import triton as path
    else:
        path = grouped
    probs, ids, alpha = path.topk_confidence(logits, k)
    if not _dispatch.all_finite(alpha):
        _dispatch.require_distribution("logits", logits)
    return probs, ids, alpha
