"""The layers of a transformers decoder and the linear maps in them, which are what is pruned."""

from dataclasses import dataclass

from torch import nn

OTHER = 0.05
"""The share of a decoder's layers that may lie outside its linear maps: routers, decays, tables."""


@dataclass(frozen=True)
class Layer:
    """One decoder layer and its linear maps by the name of their weight in `model.named_parameters()`."""

    name: str
    module: nn.Module
    linears: dict[str, nn.Linear]


def decoder_layers(model: nn.Module) -> list[Layer]:
    """The layers of `model` in the order of the forward pass, each with every `nn.Linear` inside it.

    Embeddings, norms and the output head are no part of them. Raises ValueError for what is not a decoder of
    the transformers library that keeps its layers in `.layers`, and where the layers hold no `nn.Linear`.
    """
    got = type(model).__name__
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    stack = getattr(decoder, "layers", None)
    if not isinstance(stack, nn.ModuleList) or model.config.is_encoder_decoder:
        raise ValueError(f"model: got {got}, want a transformers decoder with its layers in `.layers`")
    names = {module: name for name, module in model.named_modules()}
    layers = [
        Layer(
            names[module],
            module,
            {f"{names[part]}.weight": part for part in module.modules() if isinstance(part, nn.Linear)},
        )
        for module in stack
    ]
    if not any(layer.linears for layer in layers):
        raise ValueError(f"model: got {got}, whose decoder layers hold no nn.Linear, want at least one")
    return layers


def require_linear(model: nn.Module) -> None:
    """ValueError where the layers hold more than `OTHER` of their weights in matrices that are no `nn.Linear`, as
    mixtures of experts do, whose experts are one parameter: what is done to linear maps would miss them.

    Also as `decoder_layers`.
    """
    layers = decoder_layers(model)
    linear = {id(part.weight) for layer in layers for part in layer.linears.values()}
    convolutions = {
        id(part.weight) for layer in layers for part in layer.module.modules() if isinstance(part, nn.Conv1d)
    }
    matrices = {
        f"{layer.name}.{name}": weight
        for layer in layers
        for name, weight in layer.module.named_parameters()
        if weight.ndim > 1 and id(weight) not in convolutions
    }
    others = {name: weight.numel() for name, weight in matrices.items() if id(weight) not in linear}
    share = sum(others.values()) / sum(weight.numel() for weight in matrices.values())
    if share > OTHER:
        raise ValueError(
            f"model: got {type(model).__name__}, which holds {share:.0%} of its layers' weights in matrices that are "
            f"no nn.Linear, {max(others, key=others.get)} among them (experts?); want at most {OTHER:.0%}"
        )
