"""Accepted rows of every layer's keys and values moved to the end of the prefix, in place. Proof: README.md."""

from numbers import Integral

import torch

from palimpsest.kernels import _dispatch, _multi_tensor
from palimpsest.kernels.cache_commit import batched, reference


def cache_commit(
    keys: list[torch.Tensor],
    values: list[torch.Tensor],
    accepted: list[int] | torch.Tensor,
    prefix_len: int | torch.Tensor,
    *,
    backend: str | None = None,
) -> int | torch.Tensor:
    """Row prefix_len + accepted[i] of every tensor becomes row prefix_len + i; the prefix is then n rows longer.

    Stated by SAGE (arXiv 2602.00523, algorithm 1): of the verified tree only the accepted path stays in the caches.
    Our reading: in place, since moving a path costs less than copying a cache. Rows before prefix_len and from
    prefix_len + n on keep every bit: rejected rows stay, beyond the length, until they are written over.

    Args:
        keys: of L layers, [B, Hkv, S, Dh] each, float16, bfloat16, float32 or float64, any strides. Updated. Hkv,
            S, Dh and the dtype may differ from layer to layer.
        values: of the same layers, in their keys' shapes and dtypes; only Dh may be another. Updated.
        accepted: the accepted path as places in the tree, strictly increasing from 0: n integers for all requests,
            or [B, n] for requests of their own, of which shorter ones end in -1. A list, or int32 or int64, on the
            caches' device or the CPU.
        prefix_len: number of rows before the tree, or [B] int32 or int64, likewise placed.
        backend: None takes Triton on CUDA tensors and the torch path on CPU; "reference" is the plain definition;
            "triton" on CPU tensors needs TRITON_INTERPRET=1 before triton is first imported.

    Returns:
        prefix_len + n; or, where requests differ, [B] int64 of each one's new length on the caches' device, which
        `kernels.tree_attention` takes as it is.

    Raises:
        ValueError: not lists of floating-point tensors, unequal lengths, shapes, dtypes, devices or B, a tensor
            whose elements share memory, accepted or prefix_len of a wrong type or shape, unknown backend; where
            they are on the CPU also places that do not increase, or that lie beyond S. Nothing is moved then. (On
            CUDA they are not looked at; what would leave the cache is skipped.)
        BackendUnavailableError: "triton" forced where it cannot run; it says why.
    """
    kinds = _multi_tensor.require_partners("keys", keys, "values", _of_their_width(keys, values))
    if not keys:
        raise ValueError("keys: got an empty list, want one tensor per layer")
    device, (batch, rows) = kinds[0][1], _require_shapes(kinds)
    _multi_tensor.require_own_memory("keys", keys)
    _multi_tensor.require_own_memory("values", values)
    paths = _paths(accepted, batch, device)
    ends = _prefix_len(prefix_len, batch, device)
    if batch:
        _require_inside(paths, ends, rows)
    chosen = _dispatch.choose("cache_commit", backend, device, "torch-batched")
    if chosen == "reference":
        path = reference
    elif chosen == "triton":
        _multi_tensor.refuse_interpreted_cuda(device)
        from palimpsest.kernels.cache_commit import triton as path
    else:
        path = batched
    tensors = [x for x in (*keys, *values) if x.numel()]
    if tensors and paths.numel():
        path.move_(tensors, paths, ends)
    lengths = len(paths) if paths.ndim == 1 else (paths >= 0).sum(1).to(device)
    return lengths + (ends if isinstance(ends, int) else ends.to(device))


def _of_their_width(keys, values):
    """`values`, those of another Dh than their keys' as empty stand-ins that differ in nothing else: rows of keys and
    of values move alike, whatever their widths (multi-head latent attention has two)."""
    if not (type(keys) is type(values) is list and all(isinstance(x, torch.Tensor) for x in keys + values)):
        return values
    if len(keys) != len(values) or all(k.shape[-1:] == v.shape[-1:] for k, v in zip(keys, values, strict=True)):
        return values
    return [v.new_empty(()).expand(*v.shape[:-1], *k.shape[-1:]) for k, v in zip(keys, values, strict=True)]


def _require_shapes(kinds):
    """B and the smallest S, from what `require_partners` gave."""
    first = kinds[0][0]
    if len(first) == 4 and kinds.count(kinds[0]) == len(kinds):  # as most models have them
        return first[0], first[2]
    batch, rows = first[:1], []
    for i, (shape, *_) in enumerate(kinds):
        if len(shape) != 4 or shape[:1] != batch:
            want = f"[B, Hkv, S, Dh] with keys[0]'s B = {batch[0]}" if i else "[B, Hkv, S, Dh]"
            raise ValueError(f"keys[{i}]: got shape {list(shape)}, want {want}")
        rows.append(shape[2])
    return batch[0], min(rows)


def _integers(name, value, want, device):
    if not isinstance(value, torch.Tensor) or value.dtype not in (torch.int32, torch.int64):
        got = value.dtype if isinstance(value, torch.Tensor) else repr(value)
        raise ValueError(f"{name}: got {got}, want {want}, int32 or int64")
    if not value.is_cpu and value.device != device:
        raise ValueError(f"{name}: got device {value.device}, want that of keys, {device}, or the CPU")
    return value if value.dtype == torch.int64 else value.long()


def _paths(accepted, batch, device):
    """`accepted` as an int64 tensor [n] or [B, n]."""
    want = "a list of integers [n], or a tensor [n] or [B, n]"
    if isinstance(accepted, list | tuple) and all(type(place) is int for place in accepted):
        accepted = torch.tensor(accepted, dtype=torch.int64)
    accepted = _integers("accepted", accepted, want, device)
    if accepted.ndim not in (1, 2) or (accepted.ndim == 2 and len(accepted) != batch):
        raise ValueError(f"accepted: got shape {list(accepted.shape)}, want [n] or [B, n] with B = {batch}")
    return accepted


def _prefix_len(prefix_len, batch, device):
    """`prefix_len` as an int or an int64 tensor [B]."""
    if type(prefix_len) is int or (isinstance(prefix_len, Integral) and not isinstance(prefix_len, bool)):
        if prefix_len < 0:
            raise ValueError(f"prefix_len: got {prefix_len}, want 0 or more")
        return int(prefix_len)
    prefix_len = _integers("prefix_len", prefix_len, "an integer from 0 or a tensor [B]", device)
    if prefix_len.shape != (batch,):
        raise ValueError(f"prefix_len: got shape {list(prefix_len.shape)}, want [B] = [{batch}]")
    if not prefix_len.is_cuda and (prefix_len < 0).any():
        raise ValueError(f"prefix_len: got {int(prefix_len.min())}, want 0 or more")
    return prefix_len


def _require_inside(paths, ends, rows):
    """In Python: for the few places of a path, torch's calls would cost more than moving the rows."""
    if paths.is_cuda or paths.numel() == 0:  # the host would have to wait for CUDA's answer
        return
    padded = paths.ndim == 2
    requests = paths.tolist() if padded else [paths.tolist()]
    for path in requests:
        while padded and path and path[-1] == -1:
            path.pop()
        if path != sorted({-1, *path})[1:]:
            raise ValueError(
                f"accepted: got {paths.tolist()}, want places from 0 that increase strictly"
                + (", and -1 only after a request's last" if padded else "")
            )
    if isinstance(ends, int):
        ends = [ends] * len(requests)
    elif ends.is_cuda:
        return
    else:
        ends = ends.tolist() if padded else [max(ends.tolist())]
    for end, path in zip(ends, requests, strict=True):
        if path and end + path[-1] >= rows:
            raise ValueError(
                f"accepted: reaches row {end + path[-1]} of the caches, want below the smallest S, {rows}"
            )
