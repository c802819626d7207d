"""The layers of a transformers decoder and the linear maps in them, which are what is pruned."""

from dataclasses import dataclass

from torch import nn


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
