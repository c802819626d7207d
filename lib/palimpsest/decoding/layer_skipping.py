"""A self-drafter: the target itself with some of its layers left out."""

import copy

from torch import nn

from palimpsest.checks import require_number


def kept_layers(layers: int, speed_up: float) -> list[int]:
    """Which of so many layers stay for a target speed-up: the first, the last, and the others evenly between them.

    Stated by Unified Layer Skipping (Liu et al., arXiv 2404.06954, abstract): the number of layers follows from the
    target speed-up alone, independent of the input, and those left out are balanced over the depth. Our reading:
    round(layers / speed_up) stay, at least two; their places are rounded from an even spacing, halves up.
    """
    require_number("speed_up", speed_up, least=1)
    count = min(layers, max(2, int(layers / speed_up + 0.5)))
    return sorted({int(i * (layers - 1) / (count - 1) + 0.5) for i in range(count)}) if layers > 1 else [0]


def without_layers(model, speed_up: float):
    """A causal model of transformers that shares all its weights with `model` and runs through `kept_layers` alone.

    The paper fine-tunes with layers left out; here nothing is trained. ValueError for a model whose layers are not a
    list of modules with `self_attn`, as Llama's and its kin's are.
    """
    layers = getattr(model.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList) or not all(hasattr(layer, "self_attn") for layer in layers):
        raise ValueError(f"model: got {type(model).__name__}, want one with a list of layers with self_attn")
    kept = kept_layers(len(layers), speed_up)
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    small = copy.deepcopy(model, shared)  # new modules around the same tensors
    decoder = small.get_decoder()
    decoder.layers = nn.ModuleList([decoder.layers[place] for place in kept])
    for place, layer in enumerate(decoder.layers):
        layer.self_attn.layer_idx = place
    text = small.config.get_text_config()
    text.num_hidden_layers = decoder.config.num_hidden_layers = len(kept)
    if getattr(text, "layer_types", None):
        text.layer_types = decoder.config.layer_types = [text.layer_types[place] for place in kept]
    return small.eval()  # the new list of layers came in training mode
