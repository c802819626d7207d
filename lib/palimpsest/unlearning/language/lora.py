"""LoRA (Hu et al. 2022, arXiv 2106.09685) through peft, for models that are pruned: the merged update is masked."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.checks import require_count, require_number
from palimpsest.pruning.decoder import require_linear
from palimpsest.unlearning.language.update import Update, layers_in_reach

ADAPTER = "default"


@dataclass(frozen=True)
class LoraSettings:
    """W + (alpha / rank)·B A on every linear matrix inside the decoder's layers, B [out, rank], A [rank, in]."""

    rank: int = 8
    alpha: float = 16.0

    def __post_init__(self):
        require_count("rank", self.rank)
        require_number("alpha", self.alpha)


@contextmanager
def adapted(model: nn.Module, lora: LoraSettings, update: Update, generator: torch.Generator) -> Iterator[dict]:
    """Inside, `model` computes with adapters, which are yielded by name: "….lora_A" and "….lora_B".

    A is drawn as peft draws it, but from `generator`; B is 0. A pruned matrix computes with M⊙(B A), so that what is
    trained is what is merged: at the end the adapters are added to the surviving weights and leave the model. After
    an exception they leave it without. Raises ImportError with the command that installs peft, if it is missing;
    ValueError for a model that holds much outside linear maps (`pruning.decoder.require_linear`), and where none of
    its linear maps moves.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError("lora: needs the package peft: pip install peft") from error
    require_linear(model)
    reach = [weight for layer in layers_in_reach(model, update) for weight in layer.linears if update.moves(weight)]
    if not reach:
        raise ValueError(f"moving: got {update.moving!r}, which matches no linear map inside the layers")
    names = [weight.removesuffix(".weight") for weight in reach]
    masks = {} if update.masks is None else update.masks.kept
    with torch.random.fork_rng():  # peft draws weights of its own
        inject_adapter_in_model(LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=names), model)
    layers = {name: model.get_submodule(name) for name in names}
    parameters, kept = {}, {}
    for name, layer in layers.items():
        a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        drawn = torch.empty(a.shape, dtype=a.dtype)
        a.data.copy_(nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator))
        parameters |= {f"{name}.lora_A": a, f"{name}.lora_B": b}
        if f"{name}.weight" in masks:
            kept[name] = masks[f"{name}.weight"].to(a.device)
            layer.forward = partial(_masked_forward, layer, kept[name])
    try:
        yield parameters
        with torch.no_grad():
            for name, layer in layers.items():
                weight, merged = layer.base_layer.weight, _merged(layer)
                weight.copy_(torch.where(kept[name], merged, weight) if name in kept else merged)
    finally:
        for name, layer in layers.items():
            model.set_submodule(name, layer.base_layer)
        del model.peft_config


def _merged(layer: nn.Module) -> Tensor:
    return layer.base_layer.weight + layer.get_delta_weight(ADAPTER)


def _masked_forward(layer: nn.Module, kept: Tensor, x: Tensor) -> Tensor:
    base = layer.base_layer
    return F.linear(x, base.weight + layer.get_delta_weight(ADAPTER) * kept, base.bias)
