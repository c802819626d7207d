"""Networks of the chapters. `build` makes one from a name, with every weight drawn from the seed given."""

import torch
from torch import nn

from .classifier import BodyAndHead
from .mobile import MobileNetV2
from .residual import ResNet18, ResNet20

ARCHITECTURES = {
    "resnet18": lambda channels, classes: ResNet18(channels, classes, 64, stem="small"),
    "resnet18-slim": lambda channels, classes: ResNet18(channels, classes, 8),
    "resnet20": ResNet20,
    "resnet8-slim": lambda channels, classes: ResNet20(channels, classes, blocks=1, width=8, stride=2),
    "mobilenetv2": lambda channels, classes: MobileNetV2(channels, classes, 1.0),
    "mobilenetv2-slim": lambda channels, classes: MobileNetV2(channels, classes, 0.25),
}


def build(name: str, *, channels: int, classes: int, seed: int) -> nn.Module:
    """A freshly initialised network, channels-last in memory (faster for narrow layers on a CPU).

    The global generator is restored afterwards, so building a network never shifts a caller's random numbers.
    Raises ValueError for an unknown name.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"name: got {name!r}, want one of {sorted(ARCHITECTURES)}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs as well
        model = ARCHITECTURES[name](channels, classes)
    return model.to(memory_format=torch.channels_last)


__all__ = ["ARCHITECTURES", "BodyAndHead", "MobileNetV2", "ResNet18", "ResNet20", "build"]
