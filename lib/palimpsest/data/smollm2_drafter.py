"""The drafter of SmolLM2 that `build.smollm2_drafter` trained: its own layers, and what it shares with the target."""

import copy
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from . import manifest

FILE = "smollm2_drafter/drafter.safetensors"


def cut(target: LlamaForCausalLM, layers: int, tokens: Tensor) -> LlamaForCausalLM:
    """A model of the `target`'s first `layers` layers, copied, that predicts these tokens only.

    Embedding and last norm are the target's own, the output layer a copy of its rows of `tokens` (int64 [D]): logits
    [..., D], of which number i belongs to tokens[i].
    """
    config = copy.deepcopy(target.config)
    config.num_hidden_layers, config.tie_word_embeddings = layers, False
    with torch.device("meta"):  # nothing of what it draws is kept
        drafter = LlamaForCausalLM(config)
    whole, small = target.model, drafter.model
    small.embed_tokens, small.norm, small.rotary_emb = whole.embed_tokens, whole.norm, whole.rotary_emb
    small.layers = nn.ModuleList(copy.deepcopy(layer) for layer in whole.layers[:layers])
    drafter.lm_head = nn.Linear(config.hidden_size, len(tokens), bias=False, device="meta")
    drafter.lm_head.weight = nn.Parameter(target.lm_head.weight[tokens].detach().clone(), requires_grad=False)
    return drafter.eval()


def packed(layers: nn.ModuleList, tokens: Tensor) -> dict[str, Tensor]:
    """What `load` reads: of each matrix [R, C] int8 numbers and a float32 scale [R, 1] per row, which their product
    restores to within half a step, 1/254 of the row's largest; vectors as they are."""
    content = {"tokens": tokens.to(torch.int32)}
    for name, weight in layers.state_dict().items():
        if weight.ndim < 2:
            content[name] = weight.clone()
            continue
        scale = weight.abs().amax(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny) / 127
        content |= {name: (weight / scale).round().to(torch.int8), f"{name}.scale": scale}
    return content


def load(target: LlamaForCausalLM, file: Path | None = None) -> tuple[LlamaForCausalLM, list[int]]:
    """(the drafter, the token of each of its logits), float32 on the CPU. `file`: by default the shipped one.

    ValueError when that is missing or altered.
    """
    content = load_file(manifest.verify(FILE) if file is None else file)
    tokens = content.pop("tokens").long()
    state = {
        name: value.float() * content[f"{name}.scale"] if value.dtype == torch.int8 else value
        for name, value in content.items()
        if not name.endswith(".scale")
    }
    drafter = cut(target, 1 + max(int(name.partition(".")[0]) for name in state), tokens)
    drafter.model.layers.load_state_dict(state)
    return drafter, tokens.tolist()
