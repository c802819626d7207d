"""Attention of a token tree over a cached prefix and itself. Derivation: README.md."""

import math
from numbers import Integral, Real

import torch

from palimpsest.kernels import _dispatch
from palimpsest.kernels.tolerances import accumulation_dtype
from palimpsest.kernels.tree_attention import reference, sdpa


def tree_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    ancestors: torch.Tensor,
    prefix_len: int | torch.Tensor,
    scale: float | None = None,
    *,
    backend: str | None = None,
) -> torch.Tensor:
    """Every tree node attends to the whole prefix, to its ancestors and to itself; heads may share keys and values.

    Stated by SAGE (arXiv 2602.00523, section 3): one forward pass verifies the tree under a mask that lets a node
    see its ancestors only. Our reading: the mask as a matrix, and the separation of prefix and tree. For inference:
    only "reference" is differentiable. Two calls give the same bits.

    Args:
        q: [B, H, T, Dh] float16, bfloat16, float32 or float64, any strides: queries of the T nodes.
        k: [B, Hkv, prefix_len + T, Dh], same dtype and device: keys of the prefix, then of the nodes. H is a
            multiple of Hkv; heads h with equal h // (H / Hkv) share keys and values.
        v: values, of k's shape.
        ancestors: [T, T] bool, or [B, T, T] for a tree each: entry (i, j) is True where node j is i or an ancestor
            of i. Its bits are packed inside.
        prefix_len: number of keys before the tree, which every node sees; or [B] int32 or int64, for requests of
            different lengths: then k and v are [B, Hkv, S, Dh] with the tree of request b in the rows from
            prefix_len[b], and what lies after it is not seen.
        scale: of the scores; None stands for 1 / sqrt(Dh).
        backend: None takes Triton on CUDA tensors and torch's scaled_dot_product_attention on CPU; "reference" is
            the plain definition; "triton" on CPU tensors needs TRITON_INTERPRET=1 before triton is first imported.

    Returns:
        [B, H, T, Dh] in q's dtype; empty where B or T is 0.

    Raises:
        ValueError: not a tensor, wrong dtype, shape or device, H not a multiple of Hkv, scale not finite, unknown
            backend, or a tensor that requires a gradient where none can be had; on CPU also a node that does not
            see itself, a prefix_len[b] outside 0 ... S - T, or NaN or infinity that reaches the result (on CUDA a
            node that sees nothing gives NaN, and NaN gives NaN).
        BackendUnavailableError: "triton" forced where it cannot run; it says why.
    """
    for name, value in (("q", q), ("k", k), ("v", v)):
        _dispatch.require_float_tensor(name, value, "[B, H, T, Dh]" if name == "q" else "[B, Hkv, S, Dh]")
        _dispatch.require_same_kind(name, value, "q", q)
    _require_heads(q, k, v)
    _require_ancestors(ancestors, q)
    _require_prefix_len(prefix_len, q, k)
    if not isinstance(prefix_len, torch.Tensor):
        prefix_len = int(prefix_len)
    if scale is None:
        scale = q.shape[3] ** -0.5
    if not isinstance(scale, Real) or not math.isfinite(scale):
        raise ValueError(f"scale: got {scale!r}, want a finite number or None")
    scale = float(scale)
    chosen = _dispatch.choose("tree_attention", backend, q.device, "torch-sdpa")
    if chosen == "reference":
        out = reference.tree_attention(q, k, v, ancestors, prefix_len, scale)
    elif torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        raise ValueError(
            "q, k, v: got one that requires a gradient, which only backend='reference' gives; "
            "want that, or a call under torch.no_grad()"
        )
    elif q.numel() == 0:
        return q.new_empty(q.shape)
    elif chosen == "triton":
        from palimpsest.kernels.tree_attention import triton

        out = triton.tree_attention(q, k, v, ancestors, prefix_len, scale)
    else:
        out = sdpa.tree_attention(q, k, v, ancestors, prefix_len, scale)
    if not out.is_cuda and (out == 0).all(-1).any():
        # Zeros are also what torch gives where every score is -inf; the definition tells, and gives NaN there.
        out = reference.tree_attention(q, k, v, ancestors, prefix_len, scale)
    _require_finite(out, q, k, v)
    return out


def _require_heads(q, k, v):
    (batch, heads, _, width), kv_heads = q.shape, k.shape[1]
    if (k.shape[0], k.shape[3]) != (batch, width) or width == 0:
        raise ValueError(
            f"k: got shape {list(k.shape)}, want [B, Hkv, S, Dh] with q's B = {batch} and Dh = {width}, Dh at least 1"
        )
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(f"q: got H = {heads}, want a multiple of k's Hkv, {kv_heads}")
    if v.shape != k.shape:
        raise ValueError(f"v: got shape {list(v.shape)}, want that of k, {list(k.shape)}")


def _require_ancestors(ancestors, q):
    batch, _, nodes, _ = q.shape
    if not isinstance(ancestors, torch.Tensor) or ancestors.dtype != torch.bool:
        got = ancestors.dtype if isinstance(ancestors, torch.Tensor) else type(ancestors).__name__
        raise ValueError(f"ancestors: got {got}, want a bool tensor [T, T] or [B, T, T]")
    if ancestors.shape not in ((nodes, nodes), (batch, nodes, nodes)):
        raise ValueError(
            f"ancestors: got shape {list(ancestors.shape)}, want [T, T] = {[nodes] * 2} "
            f"or [B, T, T] = {[batch, nodes, nodes]}"
        )
    if ancestors.device != q.device:
        raise ValueError(f"ancestors: got device {ancestors.device}, want that of q, {q.device}")
    if ancestors.is_cuda:  # the host would have to wait for CUDA's answer
        return
    itself = ancestors.diagonal(dim1=-2, dim2=-1)
    if not itself.all():
        raise ValueError(
            f"ancestors: got False at diagonal place {(~itself).nonzero()[0].tolist()}, want True: a node sees itself"
        )


def _require_prefix_len(prefix_len, q, k):
    (batch, _, nodes, _), keys = q.shape, k.shape[2]
    if isinstance(prefix_len, torch.Tensor):
        if prefix_len.dtype not in (torch.int32, torch.int64) or prefix_len.shape != (batch,):
            raise ValueError(
                f"prefix_len: got {prefix_len.dtype} {list(prefix_len.shape)}, want int32 or int64 [B] = [{batch}]"
            )
        if prefix_len.device != q.device:
            raise ValueError(f"prefix_len: got device {prefix_len.device}, want that of q, {q.device}")
        if keys < nodes:
            raise ValueError(f"k: got S = {keys}, want at least T = {nodes}")
        if prefix_len.is_cuda or batch == 0:
            return
        low, high = (int(bound) for bound in prefix_len.aminmax())
        if low < 0 or high > keys - nodes:
            raise ValueError(f"prefix_len: got {low if low < 0 else high}, want 0 ... S - T = {keys - nodes}")
        return
    if not isinstance(prefix_len, Integral) or isinstance(prefix_len, bool) or prefix_len < 0:
        raise ValueError(f"prefix_len: got {prefix_len!r}, want an integer from 0 or a tensor [B]")
    if keys != prefix_len + nodes:
        raise ValueError(f"k: got S = {keys}, want prefix_len + T = {prefix_len} + {nodes} = {prefix_len + nodes}")


def _require_finite(out, q, k, v):
    """Looks at the result: NaN or infinity in the input shows there, and a read of the cache is spared."""
    if out.is_cuda or math.isfinite(out.sum(dtype=accumulation_dtype(out.dtype)).item()) or out.isfinite().all():
        return
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not torch.isfinite(x).all():
            raise ValueError(f"{name}: got NaN or infinity, want finite numbers")
    raise ValueError("q: its products with k overflow; want scores that are finite")
