"""What the pruner asks of a method, and the methods there are."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import magnitude, random, sparsegpt, wanda
from .pattern import Pattern


@dataclass(frozen=True)
class Method:
    """`solve(weight [out, in], statistic, pattern, generator) -> (survivors, weights)` prunes one matrix.

    `statistic` maps the inputs [tokens, in] that calibration sends into a matrix to what `solve` needs of them;
    two statistics add up to that of both inputs together. None: the method looks at weights alone, and `solve`
    is given None.
    """

    source: str
    solve: Callable[[Tensor, Tensor | None, Pattern, torch.Generator], tuple[Tensor, Tensor]]
    statistic: Callable[[Tensor], Tensor] | None = None


METHODS = {
    "magnitude": Method(
        source="Han et al. 2015, arXiv 1506.02626",
        solve=lambda weight, _, pattern, __: (magnitude.mask(weight, pattern), weight),
    ),
    "random": Method(
        source="control",
        solve=lambda weight, _, pattern, generator: (random.mask(weight.shape, pattern, generator), weight),
    ),
    "sparsegpt": Method(
        source="Frantar and Alistarh 2023, arXiv 2301.00774",
        solve=lambda weight, hessian, pattern, _: sparsegpt.solve(weight, hessian, pattern),
        statistic=sparsegpt.hessian,
    ),
    "wanda": Method(
        source="Sun et al. 2024, arXiv 2306.11695",
        solve=lambda weight, squares, pattern, _: (wanda.mask(weight, squares.sqrt(), pattern), weight),
        statistic=wanda.squared_norms,
    ),
}
"""Name -> method. `solve` returns the survivors, bool [out, in], and the weights that they take on, [out, in]."""
