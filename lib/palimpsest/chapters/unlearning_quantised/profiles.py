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
    `extent` says which conditions are run: the headline alone with few methods, what the claims need, or everything
    that the papers have.
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
    extent: Literal["headline", "claims", "everything"] = "claims"


SMOKE = Setting("smoke", 200, 100, 100, 3, 1, 1, (0, 1), (1000,))

CI = Setting("ci", 600, 1000, 1000, 40, 12, 4, tuple(range(60, 65)), (1000,))

FULL = Setting(
    *("full", 45_000, 5000, 10_000, 182, 40, 10, (0, 1, 2), (1000,), "resnet18", "cifar10", 0.1, 0.01, 256),
    resumable=True,
    extent="everything",
)
"""The papers' protocol on CIFAR-10, as far as Q-MUL's code states it; of the 50,000 training images 5,000 are kept
for tuning."""

FULL_CPU = Setting(
    *("full-cpu", 600, 1000, 500, 10, 3, 2, (0, 1), (1000,), "resnet18", "cifar10", 0.01, 0.01, 32),
    largest=0.03,
    resumable=True,
    extent="headline",
)
"""The papers' network and data in about three hours of one core. What is shortened against `FULL`:

- 600 training images per seed for 45,000, and 500 test images for 10,000; so a network memorises and hardly
  generalises;
- 10 epochs in float for 182 and 3 more at W4A4 for 40, which memorise 600 images;
- 2 epochs of unlearning for 10, and batches of 32 for 256: 38 steps, about the 40 of profile `ci`;
- two seeds for three;
- four values of each method's grid for six: 0.1 and 0.3 are ten and thirty times the step size of training, and
  fine-tuning and random label diverged at 0.1;
- W4A4 and a random 10 % alone, and seven methods (`arms.ON_CPU`) beside Retrain.
"""

PROFILES = {
    setting.name: setting
    for setting in (SMOKE, CI, FULL, replace(FULL, name="full-mobile", architecture="mobilenetv2"), FULL_CPU)
}
