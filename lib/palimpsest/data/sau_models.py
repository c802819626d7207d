"""The small Llamas of the SAU experiment, and the search for its arms' step sizes and weights, as
`palimpsest.chapters.sau.ship` made them.

The models are shipped because training them is chaotic: the last digits, which differ between processors, are
amplified until the weights have little in common, and what is measured afterwards differs as it does between seeds.
Weights are float16; of a pruned model only the matrices that were pruned are kept, as their surviving entries and a
mask of bits: the rest is that of the dense model.
"""

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from . import manifest

FOLDER = "sau_models"
SEARCH = f"{FOLDER}/search.csv"
KEPT = ".kept"
"""What the name of a mask ends in."""


def name(group: str, seed: int, whose: str, pruner: str = "none", sparsity: str = "0") -> str:
    """The path of a model under `data/`."""
    recipe = "" if pruner == "none" else f"-{pruner}-{sparsity.replace(':', '-')}"
    return f"{FOLDER}/{group}-{seed}-{whose}{recipe}.safetensors"


def packed(weights: dict[str, Tensor], kept: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is stored of `weights`: where a mask of `kept` (bool) has its name, the survivors, and its bits."""
    stored = {}
    for parameter, weight in weights.items():
        mask = kept.get(parameter)
        stored[parameter] = (weight if mask is None else weight[mask]).to(torch.float16)
        if mask is not None:
            stored[parameter + KEPT] = torch.from_numpy(np.packbits(mask.numpy()))
    return stored


def load(path: str, shapes: dict[str, torch.Size]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(weights by parameter, float32; the masks of those that were pruned, bool), in these shapes.

    Raises ValueError for a model that is not shipped, or a file that is altered.
    """
    stored = load_file(manifest.verify(path))
    kept = {
        parameter.removesuffix(KEPT): _unpacked(bits, shapes[parameter.removesuffix(KEPT)])
        for parameter, bits in stored.items()
        if parameter.endswith(KEPT)
    }
    weights = {}
    for parameter, values in stored.items():
        if parameter.endswith(KEPT):
            continue
        weights[parameter] = values.to(torch.float32)
        if parameter in kept:
            weights[parameter] = torch.zeros(shapes[parameter]).masked_scatter_(kept[parameter], weights[parameter])
    return weights, kept


def _unpacked(bits: Tensor, shape: torch.Size) -> Tensor:
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=shape.numel()).astype(bool)).view(shape)


def search() -> pd.DataFrame:
    """The trials of the search, a row each (`chapters.sau.search.trials`). ValueError for a file that is altered."""
    return pd.read_csv(manifest.verify(SEARCH), dtype={"sparsity": str})
