"""ResNet-18, at any width, and ResNet-20 and ResNet-8 (He et al. 2016), for small grey or RGB images."""

import torch
from torch import nn
from torch.nn import functional as F

from .classifier import BodyAndHead


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with batch norm, an identity or 1×1 shortcut (He et al. 2016, figure 5 left)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


class ResNet18(BodyAndHead):
    """ResNet-18 whose stages have `width`, 2·, 4· and 8·`width` channels (64 is the published network).

    `stem="imagenet"` is the published 7×7 stride-2 convolution with max pooling; `stem="small"` is the 3×3
    stride-1 convolution that is customary for 32×32 images. `features` maps [N, C, H, W] to the penultimate
    embedding [N, 8·width]; `forward` gives logits [N, classes].
    """

    def __init__(self, channels: int, classes: int, width: int = 64, stem: str = "imagenet"):
        super().__init__()
        if stem == "imagenet":
            layers = [nn.Conv2d(channels, width, 7, 2, 3, bias=False)]
        elif stem == "small":
            layers = [nn.Conv2d(channels, width, 3, 1, 1, bias=False)]
        else:
            raise ValueError(f"stem: got {stem!r}, want 'imagenet' or 'small'")
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        if stem == "imagenet":
            layers.append(nn.MaxPool2d(3, 2, 1))
        previous = width
        for stage in range(4):
            current = width * 2**stage
            layers += [BasicBlock(previous, current, 1 if stage == 0 else 2), BasicBlock(current, current, 1)]
            previous = current
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(previous, classes)


class ResNet20(BodyAndHead):
    """ResNet-20 for 32×32 images (He et al. 2016, section 4.2): a 3×3 stem of 16 channels, then three stages of three
    blocks with 16, 32 and 64.

    Where the channels double the shortcut is a 1×1 convolution (their option B, 0.27 M weights as well). Theirs on
    CIFAR-10 pads with zeros; in lockstep the padding would fall between networks. `blocks` = 1 makes it the ResNet-8
    of MLPerf Tiny (Banbury et al. 2021), `width` is the stem's channels, `stride` its stride. `features` maps
    [N, C, H, W] to [N, 4·width], `forward` gives logits [N, classes].
    """

    def __init__(self, channels: int, classes: int, blocks: int = 3, width: int = 16, stride: int = 1):
        super().__init__()
        layers = [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        previous = width
        for stage in range(3):
            current = width * 2**stage
            layers.append(BasicBlock(previous, current, 1 if stage == 0 else 2))
            layers += [BasicBlock(current, current, 1) for _ in range(blocks - 1)]
            previous = current
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(previous, classes)
