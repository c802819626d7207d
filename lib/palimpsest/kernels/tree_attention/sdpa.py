"""Torch path: scaled_dot_product_attention under the dense mask, without repeating keys and values."""

from torch.nn.functional import scaled_dot_product_attention

from palimpsest.kernels.tree_attention import reference


def tree_attention(q, k, v, ancestors, prefix_len, scale):
    """As reference.tree_attention."""
    # With other strides torch leaves its fused kernel for one that holds the scores, in 16 bits for 16 bits.
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    mask = reference.visible(ancestors, prefix_len, k.shape[2])
    if mask.ndim == 3:
        mask = mask[:, None]
    if q.shape[2] == 1:  # the heads that share keys become rows of one product
        folded = q.reshape(len(q), k.shape[1], -1, q.shape[3])
        return scaled_dot_product_attention(folded, k, v, attn_mask=mask, scale=scale).view(q.shape)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)
