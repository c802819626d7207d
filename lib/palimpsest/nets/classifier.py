"""The form of the chapters' image classifiers."""

import torch
from torch import nn


class BodyAndHead(nn.Module):
    """A classifier that is its `body`, [N, C, H, W] -> [N, D], and its linear `head`, and nothing else.

    A subclass sets the two in its constructor. Being one is a promise that `nets.lockstep` relies on: it takes the
    two parts and never calls `forward`, so what a class of its own computes there would be lost. The layers of
    `body` are convolutions, batch norms, and operations that treat every channel by itself, such as a ReLU,
    pooling, or a sum.
    """

    body: nn.Module
    head: nn.Linear

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The penultimate embedding [N, D]."""
        return self.body(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, classes]."""
        return self.head(self.body(x))


def logits_of(output: object) -> torch.Tensor:
    """The logits [N, classes] in what a classifier gave: itself, its `logits`, or a tuple's first. ValueError for
    another."""
    logits = getattr(output, "logits", output[0] if isinstance(output, tuple) and output else output)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        got = f"a tensor of shape {list(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"models: got {got} as output, want logits [N, classes], by itself, as `logits`, or first")
    return logits
