"""The drill of inputs: functions called with generated arguments, of which many are spoilt.

An input counts as
- right: good or spoilt, it gives what its formula gives in float64, up to rounding;
- caught: it is spoilt, and a ValueError names an argument;
- silent: another value comes back;
- foreign: another error comes, a ValueError that names no argument, or a good input is refused.
"""

import copy
import inspect
import sys
import zlib
from collections import Counter

import numpy as np
import torch

from palimpsest.drills import kernel_cases, metric_cases  # noqa: F401 (registers them)
from palimpsest.drills.cases import CASES, Case, in_float64

SPOILT = 0.7
"""The share of inputs that are spoilt."""
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool, torch.complex64)


def block(name: str, seed: int, start: int, stop: int) -> dict[str, int]:
    """How the inputs `start` to `stop` of a case count; each is a function of seed, name and number. What is silent
    or foreign is described on standard error."""
    counts = Counter(tried=0, right=0, caught=0, silent=0, foreign=0)
    for number in range(start, stop):
        rng = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
        verdict, why = judged(CASES[name], rng)
        counts["tried"] += 1
        counts[verdict] += 1
        if verdict in ("silent", "foreign"):
            print(f"{name}, seed {seed}, input {number}: {verdict}: {why}", file=sys.stderr)
    return dict(counts)


def judged(case: Case, rng: np.random.Generator) -> tuple[str, str]:
    """How one input counts, and why."""
    arguments, what = case.draw(rng), "good"
    if rng.random() < SPOILT:
        arguments, what = spoilt(arguments, rng)
    try:
        with np.errstate(all="ignore"):
            exact = case.exact(**{key: in_float64(value) for key, value in arguments.items()})
    except Exception as error:  # whatever the formula makes of nonsense, it has no value there
        exact = error
    before = copy.deepcopy({k: v.detach() if isinstance(v, torch.Tensor) else v for k, v in arguments.items()})
    try:
        value = case.function(**arguments)
    except ValueError as error:
        names = set(inspect.signature(case.function).parameters) | set(before)
        if not any(name in str(error) for name in names):
            return "foreign", f"{what}: names no argument: {error}"
        return ("foreign", f"good, refused: {error}") if what == "good" else ("caught", str(error))
    except Exception as error:
        return "foreign", f"{what}: {type(error).__name__}: {error}"
    if isinstance(exact, Exception):
        return "silent", f"{what}: a value, where the formula has none: {type(exact).__name__}: {exact}"
    return compared(case, value, exact, before, what)


def compared(case: Case, value, exact, arguments: dict, what: str) -> tuple[str, str]:
    """Whether `value` is `exact` within what the case allows."""
    with np.errstate(all="ignore"):
        allowed = case.allowed(value, exact, **arguments)
    parts = [tuple(x) if isinstance(x, tuple | list) else (x,) for x in (value, exact, allowed)]
    for result, want, slack in zip(*parts, strict=True):
        got, want = (np.asarray(x, np.float64) for x in (in_float64(result), want))
        if got.shape != want.shape:
            return "silent", f"{what}: shape {got.shape}, want {want.shape}"
        with np.errstate(all="ignore"):
            # Beside an infinity the error model has no say.
            slack = np.where(np.isnan(slack), 1e-4 * (1 + np.abs(want)), slack)
            close = (np.abs(got - want) <= slack) | (got == want) | (np.isnan(got) & np.isnan(want))
            if isinstance(result, torch.Tensor) and result.is_floating_point():  # it may be too large to be stored
                close |= ~np.isfinite(got) & (np.abs(want) >= torch.finfo(result.dtype).max)
        if not np.all(close):
            at = tuple(np.argwhere(~close)[0])
            return "silent", f"{what}: {got[at]} at {list(at)}, want {want[at]}"
    return "right", ""


def spoilt(arguments: dict, rng: np.random.Generator) -> tuple[dict, str]:
    """The arguments with one of them changed, and how."""
    name = list(arguments)[rng.integers(len(arguments))]
    value = arguments[name]
    if isinstance(value, list) and value and isinstance(value[0], torch.Tensor):
        changed, how = spoilt_tensor(value[0], rng)
        changed = [changed] if rng.random() < 0.8 else changed
    elif isinstance(value, torch.Tensor):
        changed, how = spoilt_tensor(value, rng)
    elif isinstance(value, np.ndarray):
        changed, how = spoilt_tensor(torch.from_numpy(value), rng)
        changed = changed.detach().numpy() if isinstance(changed, torch.Tensor) and "bfloat" not in how else changed
    else:
        odd = (None, True, -1, 0, 1.5, 10**6, float("nan"), float("inf"), "sum", [], np.int64(2), np.float64(0.5))
        changed = odd[rng.integers(len(odd))]
        how = repr(changed)
    return arguments | {name: changed}, f"{name} = {how}"


def spoilt_tensor(x: torch.Tensor, rng: np.random.Generator) -> tuple[object, str]:
    """Another tensor, or something else, in its place."""
    kind = rng.integers(12)
    at = int(rng.integers(x.numel())) if x.numel() else 0
    if kind < 3 and x.is_floating_point() and x.numel():
        special = (np.nan, np.inf, -np.inf, torch.finfo(x.dtype).max, torch.finfo(x.dtype).tiny, -0.0)
        new, number = x.clone(), special[rng.integers(len(special))]
        new.view(-1)[at] = number
        return new, f"with {number} at {at}"
    if kind < 3 and x.numel() and x.dtype != torch.bool:
        new, number = x.clone(), (-1, -100, 99, 2**31)[rng.integers(4)]
        new.view(-1)[at] = number
        return new, f"with {number} at {at}"
    if kind < 5 and x.is_floating_point():
        power = int(rng.integers(-150, 150))
        return x * 2.0**power, f"times 2^{power}"
    if kind == 5:
        dtype = DTYPES[rng.integers(len(DTYPES))]
        return x.to(dtype), f"as {dtype}"
    if kind == 6:
        other = (x[None], x[..., None], x.flatten(), x.flatten()[:0])[rng.integers(4)]
        return other, f"of shape {list(other.shape)}"
    if kind == 7:
        other = (x.flatten()[:-1], torch.cat([torch.atleast_1d(x)] * 2))[rng.integers(2)]
        return other, f"of shape {list(other.shape)}"
    if kind == 8:  # the same numbers, laid out otherwise
        spread = torch.stack([x, x], -1)[..., 0]
        return spread, "with strides"
    if kind == 9 and x.dtype != torch.bfloat16:
        return x.numpy(), "as an array"
    if kind == 10:
        return x.tolist(), "as a list"
    if kind == 11 and x.is_floating_point():
        return x.clone().requires_grad_(), "with a gradient"
    return None, "None"
