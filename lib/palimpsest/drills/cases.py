"""What the drill of inputs knows of a function: how good arguments are drawn, and what it must give for them."""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Number

import numpy as np
import torch

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
CASES: dict[str, "Case"] = {}
"""By the function's name."""


@dataclass(frozen=True)
class Case:
    """A function of keyword arguments.

    `draw(rng)` gives good ones; `exact(**arguments)`, written without the library, one or several float64 results, of
    arguments as `in_float64`; `allowed(value, exact, **arguments)` the error that rounding admits, shaped as `exact`.
    """

    function: Callable
    draw: Callable[[np.random.Generator], dict]
    exact: Callable
    allowed: Callable


def case(name: str, function: Callable, draw: Callable, allowed: Callable | None = None) -> Callable:
    """Registers the formula that it decorates; without `allowed`, 1e-9 of a result's size and of 1."""

    def register(exact):
        CASES[name] = Case(function, draw, exact, allowed or (lambda value, exact, **_: 1e-9 * (1 + np.abs(exact))))
        return exact

    return register


def in_float64(value: object) -> object:
    """Tensors and lists of numbers as arrays, those of floats in float64; what is neither stays what it is."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
        return (value.double() if value.is_floating_point() else value).numpy()
    if isinstance(value, np.ndarray):
        return value.astype(np.float64) if value.dtype.kind == "f" else value
    if isinstance(value, list):
        numbers = value and all(isinstance(x, Number | list) for x in value)
        return np.array(value) if numbers else [in_float64(x) for x in value]
    return value


def size(rng: np.random.Generator, most: int = 7) -> int:
    return int(rng.integers(1, most + 1))


def tensor(rng: np.random.Generator, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Normal numbers times 10^-3 to 10^1, so that differences of logits are small here and large there."""
    values = rng.standard_normal(shape) * 10 ** rng.uniform(-3, 1)
    return torch.from_numpy(values).to(dtype or any_float(rng))


def any_float(rng: np.random.Generator) -> torch.dtype:
    return FLOATS[rng.integers(len(FLOATS))]
