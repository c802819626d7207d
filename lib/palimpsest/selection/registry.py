"""One contract for every method: a function of a `Context`, registered once, reached through `select`."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Real

import torch
from torch import Tensor

from palimpsest.selection import checks
from palimpsest.selection.presets import PRESETS, Preset
from palimpsest.selection.signals import Signals


@dataclass(frozen=True)
class Context:
    """What a method sees: checked inputs, its budget, and the seeded generator (on the CPU always)."""

    features: Tensor
    labels: Tensor
    fraction: float
    preset: Preset
    signals: Signals
    generator: torch.Generator

    @cached_property
    def classes(self) -> dict[int, Tensor]:
        """Label -> the indices that carry it, both ascending."""
        return {int(c): (self.labels == c).nonzero().flatten() for c in self.labels.unique()}

    def budget(self, n: int) -> int:
        """How many of `n` samples to keep: ⌊fraction·n + ½⌋, and never none."""
        return max(1, math.floor(self.fraction * n + 0.5))

    def by_class(self, pick: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Join the picks of all classes: `pick(members [n], k)` gives the k positions kept in `members`."""
        return torch.cat([members[pick(members, self.budget(len(members)))] for members in self.classes.values()])

    def within_class(self, rule: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
        """Apply `rule` to the values of each class by itself. [N] -> [N]."""
        out = torch.empty_like(values)
        for members in self.classes.values():
            out[members] = rule(values[members])
        return out

    def keep_smallest(self, penalty: Tensor) -> Tensor:
        """Keep each class's budget of smallest penalties, ties to the lower index."""
        return self.by_class(lambda members, k: penalty[members].argsort(stable=True)[:k])


@dataclass(frozen=True)
class Method:
    """A registered method: its function, where it comes from, the fields of `Signals` it needs."""

    function: Callable[..., Tensor]
    source: str
    needs: tuple[str, ...]

    @property
    def switches(self) -> tuple[str, ...]:
        """The names of its keyword-only arguments."""
        parameters = inspect.signature(self.function).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


METHODS: dict[str, Method] = {}


def method(name: str, *, source: str, needs: tuple[str, ...] = ()) -> Callable:
    """Register a function `(Context, *, switches) -> indices kept, in any order` under `name`."""

    def register(function):
        METHODS[name] = Method(function, source, needs)
        return function

    return register


def methods() -> list[str]:
    """The names `select` knows, sorted."""
    return sorted(METHODS)


def select(
    features: Tensor,
    labels: Tensor,
    fraction: float,
    method: str = "jscds",
    preset: str = "paper_text",
    seed: int = 0,
    *,
    signals: Signals | None = None,
    **switches,
) -> Tensor:
    """Choose a core set. [N, D] float, [N] int -> the indices kept, int64, ascending, on the CPU.

    features: embeddings or logits, one row per sample; tensor or ndarray of any float dtype, all finite.
    labels: class numbers from 0, tensor or ndarray of integers; the labels as given, noisy or not.
    fraction: share to keep, in (0, 1]. Every method keeps ⌊fraction·n_c + ½⌋ samples of each class c, and one of a
        class so small that this is none, whatever its source does, so that methods are compared at one budget and no
        class is lost. Exceptions: "full" keeps all; JSCDS with scope="global" keeps ⌊fraction·N + ½⌋ in all.
    method: one of `methods()`; its docstring keeps apart what its source says and what is ours.
    preset: one of `PRESETS`: the switches of "jscds". Other methods do not read it.
    seed: of the generator behind "random" and "ccs"; the other methods draw nothing.
    signals: what a training run recorded, for the methods that need it (`METHODS[name].needs`).
    switches: the method's own keyword arguments (`METHODS[name].switches`): for "jscds" divergence, rule and
        scope, each overriding the preset. Its space and scorer are properties of `features` and no switch
        here.

    Ties go to the lower index. Raises `ValueError` for bad input, and a signal that the method needs and was not
    given.
    """
    checks.choice("method", method, METHODS)
    checks.choice("preset", preset, PRESETS)
    if isinstance(fraction, bool) or not isinstance(fraction, Real) or not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction!r}; wanted a number in (0, 1]")
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**63:
        raise ValueError(f"seed is {seed!r}; wanted an integer from 0 to 2**63 - 1")
    if not isinstance(signals, Signals | None):
        raise ValueError(f"signals is of type {type(signals).__name__}; wanted selection.Signals or None")
    chosen = METHODS[method]
    unknown = sorted(set(switches) - set(chosen.switches))
    if unknown:
        known = ", ".join(chosen.switches) or "none"
        raise ValueError(f"method {method!r} has no switch {unknown[0]!r}; its switches: {known}")

    features = checks.float_tensor("features", features, "ND")
    checks.finite("features", features, "ND")
    labels = checks.labels_tensor(labels, len(features)).to(features.device)
    context = Context(
        features=features,
        labels=labels,
        fraction=float(fraction),
        preset=PRESETS[preset],
        signals=(signals or Signals()).checked(method, chosen.needs, labels),
        generator=torch.Generator().manual_seed(int(seed)),
    )
    return chosen.function(context, **switches).sort().values.cpu()
