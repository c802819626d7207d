"""Every method on the one loop of training: SGD with momentum, and a cosine schedule by epoch.

The protocol is that of the code released with Q-MUL: momentum 0.9, weight decay 5e-4 (none on quantiser steps),
peak step size times the cosine of the epoch. Networks in lockstep have step sizes of their own.
"""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from palimpsest.nets import modes
from palimpsest.nets.quantised import hold_steps, steps
from palimpsest.training import checkpoints
from palimpsest.training.classifiers import decay_groups, stop_if_collapsed
from palimpsest.training.loop import Run, TrainingDiverged, require_finite
from palimpsest.training.seeds import seeded
from palimpsest.unlearning.vision.checks import arrays_as_tensors, check, named
from palimpsest.unlearning.vision.method import Method
from palimpsest.unlearning.vision.task import Task


@dataclass(frozen=True)
class Report:
    """What a run did: `log`, the rows the method recorded; samples passed forward and backward through *one*
    network; steps of the optimiser; wall time in `seconds` for all K networks, relabelling and norm passes included
    (RTE)."""

    log: list[dict]
    samples_forward: int
    samples_backward: int
    steps: int
    seconds: float


def unlearn(
    models: list[nn.Module],
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray | list,
    forget: Tensor | np.ndarray | list,
    method: Method | str,
    *,
    lr: float | list[float],
    epochs: int = 10,
    batch_size: int = 256,
    retain_samples: int | None = None,
    seeds: list[int] | None = None,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    checkpoint: Path | None = None,
    show: str | None = None,
) -> Report:
    """Make `models` forget, in place.

    Args:
        models: K classifiers of one architecture from `nets`, or one of any class, whose output is logits [N,
            classes] or has them as `logits` or first. They come back in the modes in which they came; a frozen part
            stays in evaluation mode meanwhile (`nets.modes.train`).
        x, y: what they were trained on: [K, N, C, H, W] in the dtype of the weights, float32 or float64, and int64
            [K, N]; for one model [N, C, H, W], [N]. An array of floats is taken in that dtype, and labels and indices
            may be arrays or lists of integers.
        forget: int64 indices of the forget set, [K, F] (or [F] for one model); all else is the retain set.
        method: what to do, a key of `METHODS` or, for settings of one's own, for example `OEU(lam=0.5)`.
        lr: peak step size, one for all or one per network; for a method with another `dial`, the value of that.
        retain_samples: so many samples of the retain set pass in an epoch, drawn anew for each, and every forget
            sample passes once, so that methods do equal work; default all, and methods that pair the two sets begin
            the forget set again, as their authors' code does.
        seeds: one per network; default 0, 1, …. Dropout draws from them too, all networks' from all seeds.
        checkpoint: a folder; written after each epoch. A run that was stopped goes on when called again with
            the models as they were at its start. The folder of another run raises ValueError.
        show: label of a progress bar; silent without.

    Raises ValueError for inputs that cannot be meant, TrainingDiverged when a loss or weight is not finite or a
    quantiser's step collapses.
    """
    method = named(method)
    x, y, forget = arrays_as_tensors(models, x, y, forget)
    if len(models) == 1 and y.ndim == 1:
        x, y, forget = x[None], y[None], forget[None]
    seeds = list(range(len(models))) if seeds is None else seeds
    rates = lr if isinstance(lr, list) else [lr] * len(models)
    check(models, x, y, forget, rates, epochs, batch_size, retain_samples, seeds, momentum, weight_decay)
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(modes.kept(model))
        length = {"epochs": epochs, "batch_size": batch_size, "retain_samples": retain_samples}
        descent = {"momentum": momentum, "weight_decay": weight_decay}
        return _run(
            *(models, x, y, forget, method, lr, rates, length, descent),
            **{"seeds": seeds, "checkpoint": checkpoint, "show": show},
        )


def _run(models, x, y, forget, method, lr, rates, length, descent, *, seeds, checkpoint, show):
    """`unlearn`, of what was checked."""
    kept = torch.ones_like(y, dtype=torch.bool).scatter_(1, forget, False)
    retain = kept.nonzero()[:, 1].view(len(models), -1)
    rates = torch.tensor(rates, dtype=torch.float32, device=y.device)
    epochs, momentum, weight_decay = length["epochs"], descent["momentum"], descent["weight_decay"]
    task = Task(models, x, y, forget, retain, seeds=seeds, lr=rates, **length)
    span = (int(y.min()), int(y.max()))
    if not 0 <= span[0] <= span[1] < task.classes:
        raise ValueError(f"y: got labels in {span[0]} .. {span[1]}, want 0 .. {task.classes - 1}")
    # The rates enter by scaling gradient and decay, so that one optimiser serves all networks.
    optimiser = torch.optim.SGD(decay_groups(task.net, 0.0), 1.0, momentum=momentum, foreach=True)
    decayed = [(p, task.spread(weight_decay * rates, p)) for p in decay_groups(task.net, 0.0)[0]["params"]]
    held, weights = list(steps(task.net).values()), task.net.state_dict(keep_vars=True)
    run = Run(
        checkpoint,
        lambda: {
            "method": f"{type(method).__name__} {asdict(method)}",
            "settings": [rates.tolist(), list(seeds), length, descent],
            "data": checkpoints.digest([x, y, forget]),
            "networks": [type(models[0]).__name__, [list(value.shape) for value in models[0].state_dict().values()]],
            "start": checkpoints.digest(weights.values()),
        },
    )
    began = time.perf_counter()
    method.begin(task)
    if run.done:
        task.memory = {name: value.to(y.device) for name, value in run.extra.items()}
        task.log, task.samples_forward, task.samples_backward, task.steps = run.values["task"]
        began -= run.values["seconds"]

    def epoch(number: int) -> Iterator[None]:
        yield  # a step of the schedule is an epoch, however many the method makes in it
        try:
            with seeded(seeds, "dropout", number, device=y.device):
                for _ in method.epoch(task, number):
                    _step(task, optimiser, decayed)
                    if not hold_steps(held):
                        raise TrainingDiverged("a quantiser's step is not finite")
        except ValueError:  # from an operation that refuses NaN: say where that came from
            require_finite(weights.values())
            raise
        stop_if_collapsed(task.net)
        run.extra = task.memory
        run.values["task"] = [task.log, task.samples_forward, task.samples_backward, task.steps]
        run.values["seconds"] = time.perf_counter() - began

    run.train(
        epoch,
        weights,
        optimiser,
        steps=epochs,
        every=1,
        lr=lr,
        rate=lambda number: 0.5 * (1 + math.cos(math.pi * number / epochs)),
        show=show,
    )
    task.net.unpack()
    seconds = time.perf_counter() - began
    return Report(task.log, task.samples_forward, task.samples_backward, task.steps, seconds)


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
    task.steps += 1
