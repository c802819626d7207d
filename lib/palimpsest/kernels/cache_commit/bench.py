"""Committing accepted rows beside its peers."""

import torch

from palimpsest.kernels.cache_commit import cache_commit, reference
from palimpsest.kernels.inputs import Draw, normal, several

SHAPES = {
    "cpu": ((2, 1, 2, 256, 32, 3), (8, 1, 2, 256, 32, 3), (30, 1, 3, 1_024, 64, 5), (30, 4, 3, 1_024, 64, 5)),
    "cuda": ((30, 1, 3, 1_024, 64, 5), (32, 1, 8, 4_096, 128, 5), (80, 8, 8, 4_096, 128, 9)),
}
"""(L, B, Hkv, S, Dh, n): a toy, a small pair's target, SmolLM2-135M, and models of 8 and 72 billion weights."""
DTYPES = {"cpu": (torch.float32,), "cuda": (torch.bfloat16,)}
DIRECTIONS = ("forward",)
NODES = 25


def _path(shape, generator, _):
    """A path that skips the tree's first node."""
    return torch.randperm(NODES - 1, generator=generator)[: shape[-1]].sort().values + 1


CACHES = several(normal(lambda layers, batch, heads, rows, width, count: (batch, heads, rows, width)))
INPUTS = {
    "keys": CACHES,
    "values": CACHES,
    "accepted": Draw(_path, device="cpu"),
    "prefix_len": Draw(lambda shape, *_: shape[3] - NODES),
}
"""Prefix and tree fill the caches."""


ours = cache_commit


def eager(keys, values, accepted, prefix_len):
    """Tensor by tensor, as one would write it."""
    rows = (accepted + prefix_len).to(keys[0].device)
    for x in (*keys, *values):
        x[:, :, prefix_len : prefix_len + len(rows)] = x[:, :, rows]


def _new_caches(keys, values, accepted, prefix_len):
    """A cache of prefix and path for each tensor, as code writes it that keeps no room beyond the length."""
    rows = torch.cat([torch.arange(prefix_len), accepted + prefix_len]).to(keys[0].device)
    return [x.index_select(2, rows) for x in (*keys, *values)]


PEERS = {"index_select, new caches": _new_caches}


def bytes_moved(shape, dtype, direction):
    """Accepted rows read and written in keys and values."""
    layers, batch, heads, _, width, count = shape
    return 4 * layers * batch * heads * width * count * dtype.itemsize


def agreement(keys, values, accepted, prefix_len):
    """Every element must be equal."""
    computed, exact = ([[x.clone() for x in tensors] for tensors in (keys, values)] for _ in range(2))
    ours(*computed, accepted, prefix_len)
    reference.move_([*exact[0], *exact[1]], accepted, prefix_len)
    for name, ones, others in zip(("keys", "values"), computed, exact, strict=True):
        for x, y in zip(ones, others, strict=True):
            yield name, x, y.double(), torch.zeros((), device=x.device)
