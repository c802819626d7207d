"""One loop for every method: SGD with momentum, a cosine schedule by epoch, checkpoints, a progress bar.

The protocol is that of the code released with Q-MUL: momentum 0.9, weight decay 5e-4 (none on quantiser steps),
peak step size times the cosine of the epoch. Networks in lockstep have step sizes of their own.
"""

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from palimpsest.nets.quantised import hold_steps, steps
from palimpsest.runs.progress import progress_bar
from palimpsest.training import checkpoints, decay_groups, stop_if_lost
from palimpsest.unlearning.vision.method import Method
from palimpsest.unlearning.vision.task import Task


@dataclass(frozen=True)
class Report:
    """What a run did: `log`, the rows the method recorded; samples passed forward and backward through *one*
    network; wall time in `seconds` for all K networks, relabelling and norm passes included (RTE)."""

    log: list[dict]
    samples_forward: int
    samples_backward: int
    seconds: float


def unlearn(
    models: list[nn.Module],
    x: Tensor,
    y: Tensor,
    forget: Tensor,
    method: Method,
    *,
    lr: float | list[float],
    epochs: int = 10,
    batch_size: int = 256,
    seeds: list[int] | None = None,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    checkpoint: Path | None = None,
    show: str | None = None,
) -> Report:
    """Make `models` forget, in place.

    Args:
        models: K classifiers of one architecture from `nets`, or one of any class.
        x, y: what they were trained on: float [K, N, C, H, W] and int64 [K, N]; for one model [N, C, H, W], [N].
        forget: int64 indices of the forget set, [K, F] (or [F] for one model); all else is the retain set.
        method: what to do, for example `methods["oeu"]()`.
        lr: peak step size, one for all or one a network; for a method with another `dial`, the value of that.
        seeds: one a network; default 0, 1, ….
        checkpoint: a folder; written after each epoch. A run that was stopped goes on when called again with
            the models as they were at its start. The folder of another run raises ValueError.
        show: label of a progress bar; silent without.

    Raises ValueError for inputs that cannot be meant, TrainingDiverged when a loss or weight is not finite or a
    quantiser's step collapses.
    """
    if len(models) == 1 and y.ndim == 1:
        x, y, forget = x[None], y[None], forget[None]
    seeds = list(range(len(models))) if seeds is None else seeds
    rates = lr if isinstance(lr, list) else [lr] * len(models)
    retain = _check(models, x, y, forget, rates, epochs, batch_size, seeds, momentum, weight_decay)
    rates = torch.tensor(rates, dtype=torch.float32, device=y.device)
    task = Task(models, x, y, forget, retain, seeds=seeds, lr=rates, epochs=epochs, batch_size=batch_size)
    span = (int(y.min()), int(y.max()))
    if not 0 <= span[0] <= span[1] < task.classes:
        raise ValueError(f"y: got labels in {span[0]} .. {span[1]}, want 0 .. {task.classes - 1}")
    # The rates enter by scaling gradient and decay, so that one optimiser serves all networks.
    optimiser = torch.optim.SGD(decay_groups(task.net, 0.0), 1.0, momentum=momentum, foreach=True)
    decayed = [(p, task.spread(weight_decay * rates, p)) for p in decay_groups(task.net, 0.0)[0]["params"]]
    held = list(steps(task.net).values())
    identity = {
        "method": f"{type(method).__name__} {asdict(method)}",
        "settings": [rates.tolist(), epochs, batch_size, list(seeds), momentum, weight_decay],
        "data": checkpoints.digest([x, y, forget]),
        "networks": [type(models[0]).__name__, [list(value.shape) for value in models[0].state_dict().values()]],
        "start": checkpoints.digest(task.net.state_dict().values()),
    }
    done, tensors, values = checkpoints.load(checkpoint, identity) if checkpoint else (0, {}, {})
    began = time.perf_counter()
    method.begin(task)
    if done:
        checkpoints.restore(task.net, optimiser, tensors)
        kept = {k.removeprefix("memory."): v for k, v in tensors.items() if k.startswith("memory.")}
        task.memory = {k: v.to(y.device) for k, v in kept.items()}
        task.log, task.samples_forward, task.samples_backward = values["task"]
        began -= values["seconds"]
    with progress_bar(total=epochs, initial=done, desc=show) as bar:
        for epoch in range(done, epochs):
            for group in optimiser.param_groups:
                group["lr"] = 0.5 * (1 + math.cos(math.pi * epoch / epochs))
            when = f"in epoch {epoch + 1} of {epochs} at {lr}"
            try:
                for _ in method.epoch(task, epoch):
                    _step(task, optimiser, decayed)
                    if not hold_steps(held):
                        break
            except ValueError:  # from an operation that refuses NaN: say where that came from
                stop_if_lost(task.net, when)
                raise
            stop_if_lost(task.net, when)
            if checkpoint:
                state = {f"model.{name}": value for name, value in task.net.state_dict().items()}
                state |= checkpoints.momentum_of(optimiser) | {f"memory.{k}": v for k, v in task.memory.items()}
                progress = {
                    "task": [task.log, task.samples_forward, task.samples_backward],
                    "seconds": time.perf_counter() - began,
                }
                checkpoints.save(checkpoint, identity, epoch + 1, state, progress)
            bar.update()
    stop_if_lost(task.net, f"at {lr}")
    task.net.unpack()
    return Report(task.log, task.samples_forward, task.samples_backward, time.perf_counter() - began)


@torch.no_grad()
def _step(task: Task, optimiser: torch.optim.Optimizer, decayed: list[tuple[Tensor, Tensor]]) -> None:
    """g ← lr_k·(g + decay·θ), then a step of size 1 times the schedule: momentum is linear in g."""
    for parameter in task.parameters:
        parameter.grad = parameter.grad * task.spread(task.lr, parameter)
    for parameter, factor in decayed:
        if parameter.grad is not None:
            parameter.grad.addcmul_(parameter, factor)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def _check(models, x, y, forget, rates, epochs, batch_size, seeds, momentum, weight_decay) -> Tensor:
    """The retain set [K, R], or ValueError for what cannot be meant."""
    networks = len(models)
    if x.ndim < 3 or y.shape != x.shape[:2] or not len(x) == len(forget) == len(seeds) == networks or networks == 0:
        raise ValueError(
            f"models, x, y, forget, seeds: got {networks} models, shapes {list(x.shape)}, {list(y.shape)} and "
            f"{list(forget.shape)}, {len(seeds)} seeds; want K models, [K, N, ...], [K, N], [K, F] and K seeds"
        )
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
    kept = torch.ones_like(y, dtype=torch.bool).scatter_(1, forget, False)
    if int(kept.sum()) != networks * (samples - forget.shape[1]):
        raise ValueError("forget: got an index twice, want distinct ones")
    for name, value, least in (("epochs", epochs, 1), ("batch_size", batch_size, 2)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: got {value!r}, want an integer of at least {least}")
    for name, value in (("momentum", momentum), ("weight_decay", weight_decay)):
        if not _finite(value) or value < 0:
            raise ValueError(f"{name}: got {value!r}, want a finite number of at least 0")
    if len(rates) != networks or not all(_finite(rate) and rate > 0 for rate in rates):
        raise ValueError(f"lr: got {rates}, want one finite positive number, or a list of {networks}")
    return kept.nonzero()[:, 1].view(networks, -1)


def _finite(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
