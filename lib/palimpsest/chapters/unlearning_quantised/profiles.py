"""How large the unlearning experiment is at each profile."""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Setting:
    """Everything that a cohort depends on.

    Counts are images, balanced over the classes. `epochs` trains the float network, `qat_epochs` more the quantised
    one; `unlearn_epochs`, `unlearn_batch` and `retain_samples` in each epoch are the budget of every method.

    Each seed is one replication: images, forget set, starting weights, batches, and its own tuning. Its step sizes
    are those that did best on the `tuned_on` seeds after it, in a ring: with one, no two replications share a tuning.
    `tried`: how many values of a method are tried around those of the pilot; None tries its own grid.
    `together`: how many networks train in lockstep. `resumable` keeps the state of training after each epoch, so that
    a stopped run loses at most one. `extent` says which conditions are run: what the claims need, or everything that
    the papers have.
    """

    name: str
    samples: int
    validation: int
    test: int
    epochs: int
    qat_epochs: int
    unlearn_epochs: int
    unlearn_batch: int
    retain_samples: int | None
    seeds: tuple[int, ...]
    tuned_on: int
    tried: int | None = 4
    architecture: str = "resnet8-slim"
    dataset: str = "fashion-mnist"
    lr: float = 0.1
    qat_lr: float = 0.04
    batch_size: int = 64
    together: int = 5
    resumable: bool = False
    extent: Literal["claims", "everything"] = "claims"


SMOKE = Setting("smoke", 200, 100, 100, 4, 1, 1, 10, 60, (0, 1), 1, tried=2)

CI = Setting("ci", 1000, 1000, 1000, 30, 8, 4, 32, 300, tuple(range(310, 320)), 1)

STUDY = Setting(
    *("study", 20_000, 1000, 1000, 25, 8, 10, 256, 4000, tuple(range(200, 210)), 5, None, "resnet20", "cifar10"),
    *(0.1, 0.01, 256),
    together=1,
    resumable=True,
)
"""ResNet-20 on CIFAR-10: 1,000 images to forget of 20,000, ten replications. Its arms are those of `study`."""

PAPER = Setting(
    *("paper", 45_000, 5000, 10_000, 182, 40, 10, 256, None, (0, 1, 2), 2, None, "resnet18"),
    *("cifar10", 0.1, 0.01, 256),
    resumable=True,
    extent="everything",
)
"""The papers' protocol on CIFAR-10, as far as Q-MUL's code states it; of the 50,000 training images 5,000 are kept
for tuning."""

PROFILES = {
    setting.name: setting
    for setting in (SMOKE, CI, STUDY, PAPER, replace(PAPER, name="paper-mobile", architecture="mobilenetv2"))
}
