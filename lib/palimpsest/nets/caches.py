"""Whether a model of transformers writes on from what it keeps of the tokens that it read."""

import inspect

from torch import nn

IN_MODULES = ("recurrent_gemma",)
"""Kinds of models that keep states in their modules, where rows that leave a batch stay."""


def takes(model: nn.Module, argument: str) -> bool:
    """Whether the decoder's forward names the argument: one that it only swallows has no effect."""
    return argument in inspect.signature(type(model.get_decoder()).forward).parameters


def require_cached(model: nn.Module) -> None:
    """ValueError unless `model` writes on from a `DynamicCache` of transformers, of keys and values or of states."""
    kind = type(model).__name__
    if not takes(model, "past_key_values"):
        # It would read each token as if it were the first.
        raise ValueError(f"model: got a {kind}, whose decoder takes no past_key_values, want one that does")
    # transformers' own list of classes with other caches; a part of a model has no say.
    dynamic = getattr(model, "_supports_default_dynamic_cache", lambda: True)()
    if not dynamic or model.config.model_type in IN_MODULES:
        raise ValueError(
            f"model: got a {kind}, which needs a cache of its own kind, want one that takes a DynamicCache"
        )
