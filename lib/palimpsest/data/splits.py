"""The two types every loader returns: a `Split` of images and labels, and a `Dataset` of two splits."""

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels, as stored: nothing is scaled or augmented.

    images: uint8 [N, H, W] (grey) or [N, H, W, 3] (RGB).
    labels: int64 [N], each in 0 .. classes - 1.
    name: what a table calls it, e.g. "fashion-mnist/train".
    mean, std: one value a channel, of pixel values in [0, 1] over the set's training split. They are
    constants of the set: a subset and the test split carry the same ones.

    Raises ValueError when a shape or dtype is another, or images and labels differ in number.
    """

    images: torch.Tensor
    labels: torch.Tensor
    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        shape = tuple(self.images.shape)
        if self.images.dtype != torch.uint8 or len(shape) not in (3, 4) or shape[3:] not in ((), (3,)):
            raise ValueError(f"images: got {self.images.dtype} {list(shape)}, want uint8 [N, H, W] or [N, H, W, 3]")
        if self.labels.dtype != torch.int64 or self.labels.shape != shape[:1]:
            raise ValueError(f"labels: got {self.labels.dtype} {list(self.labels.shape)}, want int64 [{shape[0]}]")
        channels = 3 if len(shape) == 4 else 1
        if len(self.mean) != channels or len(self.std) != channels:
            raise ValueError(f"mean, std: got {self.mean} and {self.std}, want {channels} value(s) each")

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: torch.Tensor) -> "Split":
        """The samples at `indices` (int64 [M], each in 0 .. N - 1), in that order."""
        indices = torch.as_tensor(indices)
        if indices.dtype != torch.int64 or indices.ndim != 1:
            raise ValueError(f"indices: got {indices.dtype} {list(indices.shape)}, want int64 [M]")
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(self):
            raise ValueError(
                f"indices: got values in {int(indices.min())} .. {int(indices.max())}, want 0 .. {len(self) - 1}"
            )
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def pixels(self) -> torch.Tensor:
        """float32 [N, C, H, W], contiguous: (value / 255 - mean) / std, channel by channel."""
        images = self.images.unsqueeze(1) if self.images.ndim == 3 else self.images.permute(0, 3, 1, 2)
        mean = torch.tensor(self.mean).view(1, -1, 1, 1)
        std = torch.tensor(self.std).view(1, -1, 1, 1)
        return images.contiguous().float().div_(255).sub_(mean).div_(std)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test split that share no sample.

    classes: the class names, in the order of the labels.
    origin: what to write beside a number that comes from this data, e.g. "CIFAR-10 (JPEG)".
    licence: the data's licence, as an SPDX identifier where there is one.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    origin: str
    licence: str

    def __post_init__(self):
        for split in (self.train, self.test):
            if not 0 <= int(split.labels.min()) <= int(split.labels.max()) < len(self.classes):
                raise ValueError(
                    f"labels of {split.name}: got values in {int(split.labels.min())} .. "
                    f"{int(split.labels.max())}, want 0 .. {len(self.classes) - 1}"
                )
