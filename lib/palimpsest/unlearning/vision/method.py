"""The contract of a method of unlearning."""

from collections.abc import Iterator
from typing import ClassVar

from palimpsest.unlearning.vision.task import Task

STEP_SIZES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)


class Method:
    """A method is a frozen dataclass of its hyperparameters with `begin`, `epoch`, or both.

    `epoch` is a generator: it sets gradients by `task.descend` and yields; the trainer then makes one SGD step of
    every network with that network's step size, and comes back for the next. Relabelling, norms and other passes
    happen inside it, so that they are counted. A method without steps changes the weights in `begin`.

    `grid` holds the values that tuning compares, the same number for every method. They are peak step sizes
    unless `dial` says what else they are; either way the method finds them in `task.lr` (or the trainer uses them).
    """

    dial: ClassVar[str] = "peak step size"
    grid: ClassVar[tuple[float, ...]] = STEP_SIZES

    def begin(self, task: Task) -> None:
        """Before the first epoch, also when a run is resumed, with the networks as they were given."""

    def epoch(self, task: Task, epoch: int) -> Iterator[None]:
        """The steps of epoch `epoch`, counted from 0."""
        return iter(())
