"""How large the unlearning experiment is at each profile."""

import math
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Setting:
    """Everything that a cohort depends on.

    Counts are images, balanced over the classes. `epochs` trains the float network, `qat_epochs` more the quantised
    one, `unlearn_epochs` is the budget of every method. Tuning leaves out the values of a method's grid above
    `largest`. `resumable` keeps the state of training after each epoch, so that a stopped run loses at most one.
    `extent` says which conditions are run: what the claims need, or everything that the papers have.
    """

    name: str
    samples: int
    validation: int
    test: int
    epochs: int
    qat_epochs: int
    unlearn_epochs: int
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    architecture: str = "resnet18-slim"
    dataset: str = "fashion-mnist"
    lr: float = 0.05
    qat_lr: float = 0.02
    batch_size: int = 64
    largest: float = math.inf
    resumable: bool = False
    extent: Literal["claims", "everything"] = "claims"


SMOKE = Setting("smoke", 200, 100, 100, 3, 1, 1, (0, 1), (1000,))

CI = Setting("ci", 600, 1000, 1000, 40, 12, 4, tuple(range(60, 65)), (1000,))

STUDY = Setting(
    *("study", 20_000, 1000, 1000, 25, 8, 10, tuple(range(200, 210)), (2000,), "resnet20", "cifar10", 0.1, 0.01, 256),
    largest=0.1,
    resumable=True,
)
"""ResNet-20 on CIFAR-10: 1,000 images to forget of 20,000, ten replications, each with its own images, forget set and
weights. Its arms are those of `study`. Tuning leaves out step sizes above the one that trained the network."""

PAPER = Setting(
    *("paper", 45_000, 5000, 10_000, 182, 40, 10, (0, 1, 2), (1000,), "resnet18", "cifar10", 0.1, 0.01, 256),
    resumable=True,
    extent="everything",
)
"""The papers' protocol on CIFAR-10, as far as Q-MUL's code states it; of the 50,000 training images 5,000 are kept
for tuning."""

PROFILES = {
    setting.name: setting
    for setting in (SMOKE, CI, STUDY, PAPER, replace(PAPER, name="paper-mobile", architecture="mobilenetv2"))
}
