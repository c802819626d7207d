"""MobileNetV2 (Sandler et al. 2018), at any width multiplier, for small grey or RGB images."""

import torch
from torch import nn

from .classifier import BodyAndHead

# (expansion t, channels c, repeats n, stride s): Sandler et al. 2018, table 2.
STAGES = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
]


def conv_norm(channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1):
    return [
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out),
    ]


class InvertedResidual(nn.Module):
    """Expand 1×1, depthwise 3×3, project 1×1 without activation (Sandler et al. 2018, section 3.3)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, expansion: int):
        super().__init__()
        hidden = channels_in * expansion
        layers = [*conv_norm(channels_in, hidden, 1), nn.ReLU6()] if expansion > 1 else []
        layers += [*conv_norm(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6()]
        self.branch = nn.Sequential(*layers, *conv_norm(hidden, channels_out, 1))
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x) if self.residual else self.branch(x)


class MobileNetV2(BodyAndHead):
    """MobileNetV2 with every channel count scaled by `width` and rounded to a multiple of 8.

    `features` maps [N, C, H, W] to the penultimate embedding [N, 1280·width]; `forward` gives logits
    [N, classes]. The published network keeps 1,280 channels at the end when `width` < 1; ours scales them.
    """

    def __init__(self, channels: int, classes: int, width: float = 1.0):
        super().__init__()

        def scaled(count: int) -> int:
            return max(8, int(count * width + 4) // 8 * 8)

        previous = scaled(32)
        layers = [*conv_norm(channels, previous, 3, 2), nn.ReLU6()]
        for expansion, count, repeats, stride in STAGES:
            for i in range(repeats):
                layers.append(InvertedResidual(previous, scaled(count), stride if i == 0 else 1, expansion))
                previous = scaled(count)
        last = scaled(1280)
        layers += [*conv_norm(previous, last, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(last, classes)
