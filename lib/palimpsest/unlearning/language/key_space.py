"""Key Space Detection: skill unlearning by abstention (Li, Sun and Weng 2025, arXiv 2503.21730)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palimpsest.checks import require_number
from palimpsest.nets.language import Encoded
from palimpsest.pruning.decoder import decoder_layers
from palimpsest.unlearning.language.inference import (
    Intervened,
    Intervention,
    Rival,
    hidden_of,
    passing,
    prompt_ends,
    prompt_mark,
)


@dataclass(frozen=True)
class KeySpaceDetection(Rival):
    """A query whose key, what enters the last matrix of a layer's MLP at the prompt's last token, lies in the forget
    set's hypercube is not answered. The cube is μ ± scale·k·σ, μ and σ of the forget set's keys in each coordinate, k
    the least with which it holds all of them.

    Stated by the paper's page: the hypercube, abstention. Its code: k by bisection, scale 0.08, a query abstains
    where any hooked layer detects it. Our reading: the last layer alone; who abstains gives every token the same
    probability.
    """

    scale: float = 1.0

    def __post_init__(self):
        require_number("scale", self.scale)

    def apply(
        self, model: nn.Module, forget: Encoded, retain: Encoded, *, subjects=None, seed: int = 0
    ) -> Intervened:
        mark, matrix = prompt_mark(forget), decoder_layers(model)[-1].module.mlp.down_proj
        keys = at_ends(passing(model, matrix, forget.ids, entering=True), prompt_ends(forget.ids, mark))
        middle, spread = keys.mean(0), keys.std(0)
        # A coordinate that never varies has no spread, and its keys no distance from the middle.
        least = ((keys - middle).abs() / spread.where(spread > 0, 1)).max()
        return Intervened(Detection(model, matrix, mark, middle, self.scale * least * spread))


def at_ends(values: Tensor, ends: Tensor) -> Tensor:
    """values [N, T, D] at one place of each row, [N, D]."""
    return values[torch.arange(len(values), device=values.device), ends]


class Detection(Intervention):
    """Hidden states of rows whose key lies within middle ± reach are multiplied by 1 − share: at 1 their logits are
    all 0. A row without the template's mark is answered."""

    def __init__(self, model: nn.Module, matrix: nn.Module, mark: Tensor, middle: Tensor, reach: Tensor):
        super().__init__(model)
        self.matrix = matrix
        for name, value in (("mark", mark), ("middle", middle), ("reach", reach)):
            self.register_buffer(name, value, persistent=False)

    def states(self, ids: Tensor) -> Tensor:
        ends = prompt_ends(ids, self.mark)
        keys = at_ends(passing(self.model, self.matrix, ids, entering=True), ends)
        inside = ((keys - self.middle).abs() <= self.reach).all(1) & (ends >= 0)
        return hidden_of(self.model, input_ids=ids) * (1 - self.share * inside.to(keys.dtype))[:, None, None]
