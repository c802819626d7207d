"""Tree attention beside its peers."""

import functools

import torch
from torch.nn.functional import scaled_dot_product_attention

from palimpsest.kernels.inputs import Draw, normal
from palimpsest.kernels.tolerances import admitted_error
from palimpsest.kernels.tree_attention import reference, tree_attention

SHAPES = {
    "cpu": ((1, 2, 1, 8, 16, 16), (1, 9, 3, 1, 512, 64), (1, 9, 3, 25, 512, 64), (4, 9, 3, 64, 1024, 64)),
    "cuda": (
        (1, 9, 3, 25, 512, 64),
        (1, 32, 8, 25, 4_096, 128),
        (1, 64, 8, 64, 32_768, 128),
        (16, 32, 8, 64, 4_096, 128),
    ),
}
"""(B, H, Hkv, T, prefix_len, Dh): a toy, SmolLM2-135M, and models of 8 and 72 billion weights."""
DTYPES = {"cpu": (torch.float32, torch.bfloat16), "cuda": (torch.bfloat16, torch.float16)}
DIRECTIONS = ("forward",)


def _random_tree(shape, generator, _):
    """Parents come first."""
    ancestors = torch.eye(shape[3], dtype=torch.bool)
    for i in range(1, len(ancestors)):
        ancestors[i] |= ancestors[int(torch.randint(i, (), generator=generator))]
    return ancestors


KEYS = normal(lambda b, h, h_kv, t, prefix, d: (b, h_kv, prefix + t, d))
INPUTS = {
    "q": normal(lambda b, h, h_kv, t, prefix, d: (b, h, t, d)),
    "k": KEYS,
    "v": KEYS,
    "ancestors": Draw(_random_tree),
    "prefix_len": Draw(lambda shape, *_: shape[4]),
}


ours = tree_attention


def _dense_mask(ancestors, prefix_len):
    return torch.cat([ancestors.new_ones(len(ancestors), prefix_len), ancestors], 1)


def eager(q, k, v, ancestors, prefix_len):
    """The formula over repeated keys and values, as model code writes it, in the dtype of the input."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) * q.shape[3] ** -0.5
    return scores.masked_fill(~_dense_mask(ancestors, prefix_len), float("-inf")).softmax(-1) @ v


def _sdpa(q, k, v, ancestors, prefix_len):
    mask = _dense_mask(ancestors, prefix_len)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


@functools.cache
def _compiled_flex():
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _flex(q, k, v, ancestors, prefix_len):
    """The tree is another one in every round, so its block mask is part of the work."""
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(b, h, node, key):
        return (key < prefix_len) | ancestors[node, (key - prefix_len).clamp(min=0)]

    mask = create_block_mask(sees, None, None, q.shape[2], k.shape[2], device=q.device)
    return _compiled_flex()(q, k, v, block_mask=mask, enable_gqa=True)


PEERS = {"sdpa, dense mask": _sdpa, "flex_attention": _flex}


def bytes_moved(shape, dtype, direction):
    """Queries, keys, values and one bit of the mask read, result written."""
    batch, heads, kv_heads, nodes, prefix_len, width = shape
    keys_and_values = 2 * kv_heads * (prefix_len + nodes)
    return batch * (keys_and_values + 2 * heads * nodes) * width * dtype.itemsize + nodes * nodes // 8


def agreement(q, k, v, ancestors, prefix_len):
    """The heads of the first request that share the first keys."""
    q, k, v = q[:1, : q.shape[1] // k.shape[1]], k[:1, :1], v[:1, :1]
    rest = ancestors, prefix_len, q.shape[3] ** -0.5
    exact = reference.tree_attention(q.double(), k.double(), v.double(), *rest)
    scale = reference.error_scale(q, k, v, *rest)
    yield "value", tree_attention(q, k, v, *rest), exact, admitted_error(q.dtype, reference.terms(k), scale)
