"""What `unlearn` takes, and what it refuses."""

import numpy as np
import torch
from torch import Tensor, nn

from palimpsest.checks import require_count, require_number
from palimpsest.unlearning.vision.method import Method


def named(method: Method | str) -> Method:
    """The method of that name, or the one given. Raises ValueError for what is neither."""
    from palimpsest.unlearning.vision import METHODS  # here, because the package imports the trainer

    if isinstance(method, str) and method in METHODS:
        return METHODS[method]
    if not isinstance(method, Method):
        raise ValueError(f"method: got {method!r}, want a Method or one of {sorted(METHODS)}")
    return method


def arrays_as_tensors(models: list[nn.Module], x, y, forget) -> tuple[Tensor, Tensor, Tensor]:
    """Arrays, and lists of integers, as tensors: x in the dtype and on the device of the weights, y and `forget`
    int64 on that of x. Tensors stay what they are. Raises ValueError for what is no such thing."""
    if isinstance(x, np.ndarray) and x.dtype.kind == "f" and models:
        weight = next(models[0].parameters(), torch.empty(0))
        x = torch.from_numpy(np.array(x, np.float64)).to(weight.device, weight.dtype)
    if not isinstance(x, Tensor):
        got = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
        raise ValueError(f"x: got {got}, want a tensor or an array of floats")
    whole = []
    for name, value in (("y", y), ("forget", forget)):
        if not isinstance(value, Tensor):
            try:
                value = np.array(value)
            except ValueError as error:  # lists of different lengths
                raise ValueError(f"{name}: got {type(value).__name__}, want rows of one length: {error}") from error
            if value.dtype.kind not in "iu":
                raise ValueError(f"{name}: got {value.dtype} of shape {list(value.shape)}, want integers")
            value = torch.from_numpy(value.astype(np.int64)).to(x.device)
        whole.append(value)
    return x, *whole


def check(
    models: list[nn.Module],
    x: Tensor,
    y: Tensor,
    forget: Tensor,
    rates: list[float],
    epochs: int,
    batch_size: int,
    retain_samples: int | None,
    seeds: list[int],
    momentum: float,
    weight_decay: float,
) -> None:
    """Raise ValueError naming the argument that cannot be meant."""
    networks = len(models)
    if x.ndim < 3 or y.shape != x.shape[:2] or not len(x) == len(forget) == len(seeds) == networks or networks == 0:
        raise ValueError(
            f"models, x, y, forget, seeds: got {networks} models, shapes {list(x.shape)}, {list(y.shape)} and "
            f"{list(forget.shape)}, {len(seeds)} seeds; want K models, [K, N, ...], [K, N], [K, F] and K seeds"
        )
    weights = [weight for model in models for weight in model.parameters()]
    if not any(weight.requires_grad for weight in weights):
        raise ValueError("models: got no weight with requires_grad, want some that may change")
    dtypes = {weight.dtype for weight in weights}
    if not dtypes <= {torch.float32, torch.float64}:
        # A step of the sizes that are used here is lost in the rounding of a half-precision weight.
        raise ValueError(f"models: got weights of {sorted(map(str, dtypes))}, want float32 or float64")
    if x.dtype not in dtypes:
        raise ValueError(f"x: got {x.dtype}, want the dtype of the weights, {' or '.join(sorted(map(str, dtypes)))}")
    if not x.isfinite().all():
        raise ValueError("x: got NaN or infinite values, want finite ones")
    if y.dtype != torch.int64:
        raise ValueError(f"y: got {y.dtype}, want int64")
    samples = y.shape[1]
    if forget.ndim != 2 or forget.dtype != torch.int64 or not 2 <= forget.shape[1] <= samples - 2:
        raise ValueError(
            f"forget: got {forget.dtype} {list(forget.shape)}, want int64 [{networks}, F] with 2 to {samples - 2} "
            f"of {samples} samples; at least two must stay"
        )
    low, high = int(forget.min()), int(forget.max())
    if low < 0 or high >= samples:
        raise ValueError(f"forget: got indices in {low} .. {high}, want 0 .. {samples - 1}")
    if any(len(row.unique()) != len(row) for row in forget):
        raise ValueError("forget: got an index twice, want distinct ones")
    require_count("epochs", epochs)
    require_count("batch_size", batch_size, least=2)
    if retain_samples is not None:
        require_count("retain_samples", retain_samples, least=2)
        if retain_samples > samples - forget.shape[1]:
            raise ValueError(
                f"retain_samples: got {retain_samples}, want at most the {samples - forget.shape[1]} kept"
            )
    require_number("momentum", momentum, least=0)
    require_number("weight_decay", weight_decay, least=0)
    if len(rates) != networks:
        raise ValueError(f"lr: got {len(rates)} values, want one number, or a list of {networks}")
    for rate in rates:
        require_number("lr", rate)
