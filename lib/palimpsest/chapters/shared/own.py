"""What a reader may bring to a chapter: pictures, and a network with nothing of the book."""

import torch
from torch import Tensor, nn

from palimpsest import data, training


def pictures() -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Garments to learn from, x [600, 1, 28, 28] and y [600], and 540 more with their labels to test on."""
    garments = data.load("fashion-mnist")
    train, test = garments.train.subset(torch.arange(600)), garments.test.subset(torch.arange(540))
    return train.pixels(), train.labels, (test.pixels(), test.labels)


def trained(x: Tensor, y: Tensor, seed: int) -> nn.Module:
    """Two convolutions and a linear map, as a reader would write them down, trained on x [N, 1, 28, 28] and y [N]."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2),
        nn.GELU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(32 * 5 * 5, 10),
    )
    training.fit([net], x[None], y[None], training.Recipe(epochs=30, lr=0.02), seeds=[seed])
    return net
