"""Tiny transformers decoders with random weights, and calibration tokens for them."""

import torch
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

VOCABULARY = 60
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "gemma": (GemmaConfig, GemmaForCausalLM),
}
ATTENTION = [f"self_attn.{name}_proj" for name in "qkvo"]
MATRICES = (*ATTENTION, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def decoder(family="llama", *, layers=2, seed=0, dtype=torch.float32):
    """A model whose weights have standard deviation 0.3, so that its layers change what passes through them."""
    config, architecture = FAMILIES[family]
    model = architecture(config(**SIZES | {"num_hidden_layers": layers}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.to(dtype).eval()


def tokens(rows=8, length=12, seed=1):
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def inputs_of(model, ids):
    """What reaches each linear map of the decoder layers in one plain forward pass: weight name -> [tokens, in]."""
    seen, hooks = {}, []
    for name, module in model.get_decoder().named_modules():
        if name.startswith("layers.") and isinstance(module, torch.nn.Linear):
            hooks.append(
                module.register_forward_hook(
                    lambda _, args, __, name=f"model.{name}.weight": seen.update({name: args[0].flatten(0, -2)})
                )
            )
    with torch.no_grad():
        model(ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen
