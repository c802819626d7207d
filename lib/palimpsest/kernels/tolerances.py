r"""The one error model that tests, benchmarks and kernels share.

A sum of n rounded terms, evaluated in any order, satisfies

    |computed - exact| <= lambda sqrt(n) u  *  sum |terms|

with probability at least 1 - 2 n exp(-lambda^2 / 2) when roundings are independent and of mean zero
(Higham and Mary, "A new approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 41(5), 2019,
theorem 3.1, to first order in u); u is the unit roundoff of the dtype that accumulates. Our reading: a term
which is itself computed by `TERM_ROUNDINGS` operations adds that number to n, and storing the result adds one
roundoff of the storage dtype.

`tolerance` is the factor in front of the sum. Each op derives its own sum of |terms| in its README, returns
it from `reference.error_scale` and `reference.gradient_scale`, and is held to `admitted_error`.
"""

import math

import torch

LAMBDA = 8.0
"""2 n exp(-lambda^2 / 2) is 2.5e-8 at a million terms."""

TERM_ROUNDINGS = 16
"""Covers about eight operations of at most 2 units in the last place, which is what exp2 and log2 promise."""


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a kernel computes on inputs of `dtype`: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def unit_roundoff(dtype: torch.dtype) -> float:
    """Largest relative error of one rounding to nearest: 2^-53, 2^-24, 2^-11 or 2^-8."""
    return torch.finfo(dtype).eps / 2


def tolerance(dtype: torch.dtype, accumulation_length: int) -> float:
    """Largest admitted error relative to the sum of |terms|.

    Args:
        dtype: in which the result is stored; accumulation is in `accumulation_dtype(dtype)`.
        accumulation_length: number of terms that are summed.
    """
    accumulated = LAMBDA * math.sqrt(accumulation_length + TERM_ROUNDINGS) * unit_roundoff(accumulation_dtype(dtype))
    stored = 0.0 if dtype == accumulation_dtype(dtype) else unit_roundoff(dtype)
    return accumulated + stored


def admitted_error(dtype: torch.dtype, accumulation_length: int, scale: torch.Tensor) -> torch.Tensor:
    """tolerance * scale, plus half the spacing of the subnormal numbers of `dtype`, where results underflow.

    Args:
        dtype: in which the result is stored.
        accumulation_length: number of terms that are summed.
        scale: sum of |terms|, any shape.
    """
    info = torch.finfo(dtype)
    return tolerance(dtype, accumulation_length) * scale + info.tiny * info.eps / 2
