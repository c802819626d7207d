"""Networks like another one that have learnt nothing."""

import copy

import torch
from torch import nn


def redrawn(model: nn.Module, seed: int, who: str) -> nn.Module:
    """A copy of `model` on the CPU whose weights are drawn anew from `seed`: each layer's `reset_parameters`.

    Raises ValueError, which says that `who` asks for it, for a layer that cannot reset its weights.
    """
    network = copy.deepcopy(model).cpu()  # the numbers of a GPU would differ from those of a CPU
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for name, layer in network.named_modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
            elif next(layer.parameters(recurse=False), None) is not None:
                raise ValueError(f"models: got layer {name!r} without reset_parameters, want one for {who}")
    return network
