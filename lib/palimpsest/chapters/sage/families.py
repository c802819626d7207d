"""What the SAGE experiment asks of a family of models; `shipped` and `smollm2` are the two that there are."""

from collections.abc import Mapping
from typing import Protocol

import torch

from palimpsest.data.splits import Split
from palimpsest.decoding import Decoder


class Family(Protocol):
    """Pairs of a target and a drafter. One of them is called "vision": it sees, and policies are tuned on it."""

    @property
    def pairs(self) -> Mapping[str, tuple[str, str]]:
        """By pair the names of its models, target and drafter."""

    def prepare(self) -> None:
        """Train what is still to be trained, here and not in the workers. ValueError where a model is missing."""

    def decoder(self, model: str) -> Decoder:
        """The model of this name, ready for tree decoding."""

    def inputs(self, model: str, asked: Split) -> list[dict[str, torch.Tensor]]:
        """What `decoding.generate` takes, one mapping per picture: a long description is asked for."""

    def quality(self) -> dict[str, float | None]:
        """`pair_quality.quality` of the pair "vision" on held-out pictures; None for a share of nothing."""
