"""What was pruned, matrix by matrix, and whether it fits a sparsity pattern of the hardware."""

import pandas as pd
from torch import nn

from .decoder import decoder_layers
from .masks import Masks, is_zero


def report(model: nn.Module, masks: Masks) -> pd.DataFrame:
    """One row a pruned matrix: layer (from 0), matrix (its name in the layer), weights, pruned, sparsity (pruned /
    weights), held (whether every pruned weight of `model` is +0.0 now).

    Raises ValueError for the masks of another model.
    """
    masks.require_for(model)
    rows = []
    for index, layer in enumerate(decoder_layers(model)):
        for name, linear in layer.linears.items():
            mask = masks.kept[name].to(linear.weight.device)
            pruned = int((~mask).sum())
            rows.append(
                {
                    "layer": index,
                    "matrix": name.removeprefix(f"{layer.name}.").removesuffix(".weight"),
                    "weights": mask.numel(),
                    "pruned": pruned,
                    "sparsity": pruned / mask.numel(),
                    "held": is_zero(linear.weight, mask),
                }
            )
    return pd.DataFrame(rows)


def valid_n_m(masks: Masks, n: int, m: int) -> bool:
    """Whether at most `n` of every `m` consecutive weights along the input dimension survive, in every matrix.

    That is what sparse matrix units ask for (2:4: Mishra et al. 2021, arXiv 2104.08378).
    """
    return all(
        mask.shape[-1] % m == 0 and bool((mask.reshape(-1, m).sum(1) <= n).all()) for mask in masks.kept.values()
    )
