"""What the metrics ask of their arguments; a failure is a `ValueError` naming the argument."""

import numpy as np
from torch import Tensor

from palimpsest.checks import require_count


def array(value: object) -> np.ndarray:
    """`value` (tensor on any device, array or nested list) as an array; floating-point tensors become float64."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (value.double() if value.is_floating_point() else value).numpy()
    try:
        return np.asarray(value)
    except ValueError:  # rows of unequal length: left to the caller's refusal, which names the argument
        return np.asarray(value, dtype=object)


def real(name: str, value: object, layout: str) -> np.ndarray:
    """`value` (as `array` takes it, real numbers) as a float64 array of its own.

    `layout` spells the axes, one letter each: "NC" is [N, C]. Every axis is non-empty and every entry finite.
    """
    wanted = f"want [{', '.join(layout)}] finite numbers, no axis empty"
    value = array(value)
    if value.dtype.kind not in "fiu" or value.ndim != len(layout) or value.size == 0:
        raise ValueError(f"{name}: got {value.dtype} {list(value.shape)}, {wanted}")
    if not np.isfinite(value).all():
        first = np.argwhere(~np.isfinite(value))[0]
        raise ValueError(f"{name}: got {value[tuple(first)]} at {first.tolist()}, {wanted}")
    return value.astype(np.float64)


def classes_of(name: str, value: object, classes: int, n: int | None = None) -> np.ndarray:
    """`value` (as `array` takes it, integers in 0 .. classes - 1) as int64 [N]; N = `n` where that is given."""
    require_count("classes", classes, least=2)
    wanted = f"want [{'N' if n is None else n}] integers in 0 .. {classes - 1}"
    value = array(value)
    if value.dtype.kind not in "iu" or value.ndim != 1 or value.size == 0 or n not in (None, len(value)):
        raise ValueError(f"{name}: got {value.dtype} {list(value.shape)}, {wanted}")
    if value.min() < 0 or value.max() >= classes:
        raise ValueError(f"{name}: got values in {value.min()} .. {value.max()}, {wanted}")
    return value.astype(np.int64)


def probabilities(name: str, value: object) -> np.ndarray:
    """`value` [N, C] as float64, where every row is a distribution up to the rounding of a float32 softmax."""
    p = real(name, value, "NC")
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"{name}: got values in {p.min()} .. {p.max()}, want probabilities in [0, 1]")
    # C - 1 roundings in the softmax's own sum, and a few in each exponential and its division.
    rounding = (p.shape[1] + 8) * float(np.finfo(np.float32).eps)
    error = np.abs(p.sum(1) - 1)
    if error.max() > rounding:
        row = int(error.argmax())
        raise ValueError(f"{name}: got row {row} with sum {p[row].sum()}, want rows that sum to 1")
    return p
