"""The networks of the JSCDS chapter, by name."""

import torch
from torch import nn

from palimpsest import nets
from palimpsest.nets.classifier import BodyAndHead

CONV3, CONV3_HALF = "conv3", "conv3-half"
WIDTHS = {CONV3: 16, CONV3_HALF: 8}


class Conv3(BodyAndHead):
    """Three convolutions with batch norm and ReLU, of `width`, 2·`width` and 4·`width` channels, then the mean over
    places and a linear head.

    The first is 4×4 with stride 4, so a 28×28 image is 7×7 at once: 160,000 multiply-adds a sample at width 16, with
    which sixty trainings to the end fit where one of ResNet-18 would. `features` maps [N, C, H, W] to [N, 4·width].
    """

    def __init__(self, channels: int, classes: int, width: int):
        super().__init__()
        layers, previous = [], channels
        for current, kernel, stride in ((width, 4, 4), (2 * width, 3, 2), (4 * width, 3, 2)):
            convolution = nn.Conv2d(previous, current, kernel, stride, (kernel - 1) // 2 * (kernel == 3), bias=False)
            layers += [convolution, nn.BatchNorm2d(current), nn.ReLU()]
            previous = current
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(previous, classes)


def build(name: str, *, channels: int, classes: int, seed: int) -> nn.Module:
    """A freshly initialised network, one of `WIDTHS` or of `nets.ARCHITECTURES`; as `nets.build`, whose error an
    unknown name raises."""
    if name not in WIDTHS:
        return nets.build(name, channels=channels, classes=classes, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Conv3(channels, classes, WIDTHS[name]).to(memory_format=torch.channels_last)
