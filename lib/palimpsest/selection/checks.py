"""What the entrances of this room ask of their arguments; a failure is a `ValueError` naming the argument."""

import numpy as np
import torch
from torch import Tensor


def choice(name: str, value: object, choices) -> None:
    """Refuse a `value` that is not one of the strings in `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of: {', '.join(sorted(choices))}")


def float_tensor(name: str, value: object, layout: str) -> Tensor:
    """`value` (tensor or ndarray, any float dtype) as a detached tensor of float32, or of float64 if it was.

    `layout` spells the axes, one letter each: "ND" is [N, D]. Every axis must be non-empty and no entry NaN.
    """
    wanted = f"wanted a non-empty [{', '.join(layout)}] float tensor or array"
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        # A copy in native byte order and C order: torch takes neither negative strides nor foreign bytes.
        dtype = np.float32 if value.dtype.itemsize <= 4 else np.float64
        value = torch.from_numpy(np.array(value, dtype, order="C"))
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ValueError(f"{name} is {describe(value)}; {wanted}")
    if value.ndim != len(layout) or value.numel() == 0:
        raise ValueError(f"{name} has shape {list(value.shape)}; {wanted}")
    value = value.detach()
    _refuse(name, layout, value, value.isnan(), "must hold no NaN")
    return value if value.dtype == torch.float64 else value.float()


def finite(name: str, value: Tensor, layout: str) -> None:
    """Refuse infinite entries, naming the first sample that holds one."""
    _refuse(name, layout, value, value.isinf(), "must be finite")


def non_negative(name: str, value: Tensor, layout: str) -> None:
    """Refuse negative entries, naming the first sample that holds one."""
    _refuse(name, layout, value, value < 0, "must not be negative")


def labels_tensor(value: object, n: int) -> Tensor:
    """`value` (tensor or ndarray of integers, none negative, length `n`) as an int64 tensor."""
    wanted = f"wanted a tensor or array of [N] integers with N = {n}"
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
        value = torch.from_numpy(np.array(value, np.int64, order="C"))
    if not isinstance(value, Tensor) or value.dtype == torch.bool or not _integers(value):
        raise ValueError(f"labels is {describe(value)}; {wanted}")
    if tuple(value.shape) != (n,):
        raise ValueError(f"labels has shape {list(value.shape)}; {wanted}")
    value = value.to(torch.int64)
    _refuse("labels", "N", value, value < 0, "must not be negative")
    return value


def _integers(value: Tensor) -> bool:
    return not (value.is_floating_point() or value.is_complex())


def labels_below(name: str, labels: Tensor, columns: int) -> None:
    """Refuse labels that have no column among the `columns` classes of the argument `name`."""
    if labels.max() >= columns:
        raise ValueError(
            f"{name} has {columns} class columns, but labels goes up to {int(labels.max())}; "
            f"wanted one column for each label"
        )


def describe(value: object) -> str:
    """What came, for a message: shape and dtype where there are any, else the type."""
    if isinstance(value, np.ndarray | Tensor):
        return f"{list(value.shape)} of {value.dtype}"
    return f"of type {type(value).__name__}"


def _refuse(name: str, layout: str, value: Tensor, bad: Tensor, rule: str) -> None:
    if bad.any():
        index = bad.nonzero()[0].tolist()
        entry = f"{name}[{', '.join(map(str, index))}] is {value[tuple(index)].item()}"
        raise ValueError(f"{name} {rule}; the first bad row is {index[layout.index('N')]}: {entry}")
