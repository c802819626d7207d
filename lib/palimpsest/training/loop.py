"""The one loop of training: seeded runs that can be stopped anywhere and go on to the same bits.

A user of it opens a `Run`, takes from it what an earlier part of the run has gathered, and calls `train` with a
generator that says what a step is. The order of everything else is here.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from palimpsest.runs.progress import progress_bar
from palimpsest.training import checkpoints

CLIP = 1.0
"""Largest norm of a gradient in `descend`; the default of transformers' trainer."""


class TrainingDiverged(RuntimeError):
    """A loss, a gradient or a weight stopped being finite, or a quantiser's step collapsed. The last good checkpoint,
    if there is one, is kept."""


class Run:
    """A training with a folder for its state, or (None) without.

    Attributes:
        done: epochs that are done. An epoch is what lies between two checkpoints: a pass over the data, or a block of
            steps.
        extra: tensors by name, values: what else survives JSON by name. Both are saved after each epoch with the
            model and the optimiser, as they then are; at the start they are as they were saved, or empty.

    Raises ValueError, before anything is computed, when the folder belongs to a run of another `identity()`.
    """

    def __init__(self, folder: Path | None = None, identity: Callable[[], dict] = dict):
        self.folder, self.identity = folder, {} if folder is None else identity()
        self.done, self._tensors, self.values = (
            (0, {}, {}) if folder is None else checkpoints.load(folder, self.identity)
        )
        self.extra = checkpoints.extras(self._tensors)

    def train(
        self,
        epoch: Callable[[int], Iterator[None]],
        model: dict[str, Tensor],
        optimiser: torch.optim.Optimizer,
        *,
        steps: int,
        every: int,
        lr: object,
        rate: Callable[[int], float] | None = None,
        after: Callable[[int], bool | None] | None = None,
        show: str | None = None,
    ) -> None:
        """Do what is not done yet of the run.

        Args:
            epoch: given an epoch's number, counted from 0, a generator that yields before each of its steps; what it
                does after the last one is done before the state is saved.
            model: the tensors that training changes, by name, as they were at the start of the run.
            optimiser: torch's, or one with a `state` like theirs.
            steps, every: steps in all and in an epoch; the last epoch may have fewer.
            lr: what to name when the run diverges.
            rate: the step size of each step, counted from 0 over the whole run; None where the user sees to it.
            after: called with the number of epochs done when their state is saved, and not again for epochs before
                a resumption; a true value ends the run.
            show: label of a progress bar; silent without.

        Raises TrainingDiverged, saying where, when an epoch does, or leaves weights that are not finite.
        """
        checkpoints.restore(self._tensors, model, optimiser)
        epochs = math.ceil(steps / every)
        with progress_bar(total=steps, initial=min(self.done * every, steps), desc=show) as bar:
            while self.done < epochs:
                try:
                    for step, _ in enumerate(epoch(self.done), self.done * every):
                        if rate is not None:
                            for group in optimiser.param_groups:
                                group["lr"] = rate(step)
                        bar.update()
                    require_finite(model.values())
                except TrainingDiverged as error:
                    where = f"in epoch {self.done + 1} of {epochs} at lr {lr}"
                    raise TrainingDiverged(f"{where}: {error}; a smaller lr is needed") from error
                self.done += 1
                if self.folder is not None:
                    tensors = checkpoints.pack(model, optimiser, self.extra)
                    checkpoints.save(self.folder, self.identity, self.done, tensors, self.values)
                if after is not None and after(self.done):
                    break


def require_finite(weights: Iterable[Tensor]) -> None:
    """Raise TrainingDiverged when a weight is not finite."""
    if not all(weight.isfinite().all() for weight in weights):
        raise TrainingDiverged("a weight is not finite")


def descend(loss: Tensor, parameters: dict[str, Tensor], optimiser: torch.optim.Optimizer) -> float:
    """One step of `optimiser` along the gradient of `loss`, clipped to norm `CLIP`; returns the loss.

    Raises TrainingDiverged, before anything moves, when the loss or the norm is not finite.
    """
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = clip_grad_norm_(parameters.values(), CLIP)
    if not (loss.isfinite() and norm.isfinite()):
        raise TrainingDiverged(f"the loss is {loss.item()}, the norm of its gradient {norm.item()}")
    optimiser.step()
    return loss.item()
