"""Which weights survive pruning: an object of its own, stored beside the weights and never inferred from zeros."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from palimpsest.kernels.masked_adamw_ import pack_mask
from palimpsest.runs.files import write_atomic

from .decoder import decoder_layers

METADATA = "palimpsest.masks"
"""Key of the safetensors metadata under which the shapes lie."""


@dataclass(frozen=True, eq=False)
class Masks:
    """`kept`: parameter name as in `model.named_parameters()` -> bool of its shape, True where the weight survives.

    Raises ValueError for no masks at all, and for one that is not a bool tensor.
    """

    kept: dict[str, Tensor]

    def __post_init__(self):
        if not self.kept:
            raise ValueError("kept: got no masks, want at least one")
        for name, mask in self.kept.items():
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
                raise ValueError(f"kept[{name!r}]: got {got}, want a bool tensor")

    def require_for(self, model: nn.Module) -> None:
        """ValueError unless these are masks of `model`: each of a parameter's name and shape, and, where `model`
        is a transformers decoder, one for every matrix that `prune` prunes (a deeper model has more)."""
        parameters = dict(model.named_parameters())
        for name, mask in self.kept.items():
            if name not in parameters:
                raise ValueError(f"masks: got one for {name}, which is no parameter of this {type(model).__name__}")
            if mask.shape != parameters[name].shape:
                raise ValueError(
                    f"masks: got shape {list(mask.shape)} for {name}, want that of the parameter, "
                    f"{list(parameters[name].shape)}"
                )
        if hasattr(model, "get_decoder"):
            for name in (name for layer in decoder_layers(model) for name in layer.linears):
                if name not in self.kept:
                    raise ValueError(f"masks: got none for {name}, want the masks of this {type(model).__name__}")

    @torch.no_grad()
    def apply_(self, model: nn.Module) -> None:
        """Set every pruned weight of `model` to +0.0, in place. ValueError for the masks of another model."""
        for weight, mask in self._pairs(model):
            weight.masked_fill_(~mask, 0.0)

    def holds(self, model: nn.Module) -> bool:
        """Whether every pruned weight is +0.0, bit by bit. ValueError for the masks of another model."""
        return all(is_zero(weight, mask) for weight, mask in self._pairs(model))

    def _pairs(self, model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        self.require_for(model)
        parameters = dict(model.named_parameters())
        return ((parameters[name], mask.to(parameters[name].device)) for name, mask in self.kept.items())

    def share(self) -> float:
        """The share of the masked weights that survive: 1 − sparsity."""
        return sum(int(mask.sum()) for mask in self.kept.values()) / sum(mask.numel() for mask in self.kept.values())

    def overlap(self, other: "Masks") -> float:
        """Jaccard index of the two sets of pruned weights, in [0, 1]; 1 where both masks are equal.

        Two independent masks of sparsity s overlap by s / (2 − s) on average. Raises ValueError where the two
        are not masks of one model.
        """
        shapes, others = ({name: mask.shape for name, mask in masks.kept.items()} for masks in (self, other))
        if shapes != others:
            raise ValueError("other: got masks with other names or shapes, want masks of the same model")
        pairs = [(~mask, ~other.kept[name].to(mask.device)) for name, mask in self.kept.items()]
        either = sum(int((a | b).sum()) for a, b in pairs)
        return sum(int((a & b).sum()) for a, b in pairs) / either if either else 1.0

    def save(self, path: Path | str) -> None:
        """Write the masks as safetensors, one bit per weight, shapes in the metadata; whole or not at all."""
        shapes = json.dumps({name: list(mask.shape) for name, mask in self.kept.items()})
        content = to_bytes({name: pack_mask(mask).cpu() for name, mask in self.kept.items()}, {METADATA: shapes})
        write_atomic(Path(path), lambda temporary: Path(temporary).write_bytes(content))

    @classmethod
    def load(cls, path: Path | str) -> "Masks":
        """What `save` wrote, on the CPU. ValueError naming `path` for any other file."""
        try:
            with safe_open(path, framework="pt") as file:
                shapes = json.loads((file.metadata() or {})[METADATA])
                return cls({name: _unpack(file.get_tensor(name), shape) for name, shape in shapes.items()})
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"path: got {path}, want a file that Masks.save wrote ({error})") from error


def is_zero(weight: Tensor, mask: Tensor) -> bool:
    """Whether `weight` is +0.0 wherever `mask` is False."""
    pruned = weight.detach()[~mask]
    return bool(((pruned == 0) & ~pruned.signbit()).all())


def _unpack(packed: Tensor, shape: list[int]) -> Tensor:
    """The inverse of `kernels.pack_mask`: element i is bit i % 8 of byte i // 8."""
    weights = math.prod(shape)
    if packed.dtype != torch.uint8 or packed.shape != (-(-weights // 8),):
        raise ValueError(f"{packed.dtype} {list(packed.shape)} holds no mask of shape {shape}")
    bits = packed[:, None] >> torch.arange(8, dtype=torch.uint8) & 1
    return bits.flatten()[:weights].bool().view(shape)
