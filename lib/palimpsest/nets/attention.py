"""torch's multi-head attention with its four projections as linear layers, which hooks see and quantisers replace.

`nn.MultiheadAttention` hands its weights to one function and never calls a layer; where gradients are off,
`nn.TransformerEncoderLayer` hands on those of the whole layer. A quantised layer among them would not be asked.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class OpenAttention(nn.MultiheadAttention):
    """What `nn.MultiheadAttention` computes, up to rounding, by calling `query_layer`, `key_layer`, `value_layer` and
    `out_proj`. Made by `open_attention`."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As that of `nn.MultiheadAttention`; `is_causal` says no more than `attn_mask`, which must come with it."""
        if is_causal and attn_mask is None:
            raise ValueError("attn_mask: got None with is_causal, want the causal mask")
        alone = query.ndim == 2
        if alone:
            query, key, value = (x[None] for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        layers = (self.query_layer, self.key_layer, self.value_layer)
        q, k, v = (
            layer(x).unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)
            for layer, x in zip(layers, (query, key, value), strict=True)
        )
        scores = q @ k.transpose(2, 3) / self.head_dim**0.5
        if attn_mask is not None:
            mask = _additive(attn_mask, scores)
            scores = scores + (mask if mask.ndim == 2 else mask.unflatten(0, (-1, self.num_heads)))
        if key_padding_mask is not None:
            scores = scores + _additive(key_padding_mask, scores)[:, None, None]
        weights = F.dropout(scores.softmax(-1), self.dropout, self.training)
        out = self.out_proj((weights @ v).transpose(1, 2).flatten(2))
        if not self.batch_first and not alone:
            out = out.transpose(0, 1)
        weights = weights.mean(1) if average_attn_weights else weights
        return out[0] if alone else out, (weights[0] if alone else weights) if need_weights else None


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """True hides, as minus infinity; numbers are added as they are."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, -torch.inf)


@torch.no_grad()
def open_attention(model: nn.Module) -> None:
    """Make every layer of `model` that is exactly an `nn.MultiheadAttention` an `OpenAttention`, in place.

    Raises ValueError, naming the layer, for keys and values that attention adds of its own (add_bias_kv,
    add_zero_attn).
    """
    for name, layer in model.named_modules():
        if isinstance(layer, nn.TransformerEncoder):
            layer.use_nested_tensor = False  # what padding would turn the input into, for that path alone
        if type(layer) is not nn.MultiheadAttention:
            continue
        if layer.bias_k is not None or layer.add_zero_attn:
            raise ValueError(f"model: got {name!r} with add_bias_kv or add_zero_attn, want an attention without")
        if layer._qkv_same_embed_dim:
            weights = layer.in_proj_weight.chunk(3)
        else:
            weights = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
        biases = [None] * 3 if layer.in_proj_bias is None else layer.in_proj_bias.chunk(3)
        frozen = not next(layer.parameters(recurse=False)).requires_grad
        for part, weight, bias in zip(("query_layer", "key_layer", "value_layer"), weights, biases, strict=True):
            setattr(layer, part, _linear(weight, bias, frozen, layer.training))
        trained = layer.out_proj.weight.requires_grad
        layer.out_proj = _linear(layer.out_proj.weight, layer.out_proj.bias, not trained, layer.training)
        for old in ("in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
            setattr(layer, old, None)
        # Either of these two keeps a transformer layer off the path that reads weights.
        layer._qkv_same_embed_dim = False
        layer.__class__ = OpenAttention


def _linear(weight: Tensor, bias: Tensor | None, frozen: bool, training: bool) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach().clone(), requires_grad=not frozen)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=not frozen)
    return linear.train(training)
