"""The shipped Fashion-MNIST subset: 12,000 training and 4,000 test images, equal numbers of each class.

Source: Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
Algorithms", arXiv 1708.07747 (2017), MIT licence. `build_fashion_mnist` draws the subset: its training images
from the set's 60,000 training images, its test images from the set's 10,000 test images.

Each split is a PNG mosaic of 28 × 28 tiles, 100 a row, class after class, and a CSV with the label and
the index in the source split of each tile in reading order.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from . import manifest
from .splits import Dataset, Split

FOLDER = "fashion_mnist"
SIDE = 28
COLUMNS = 100
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
MEAN, STD = (0.2874,), (0.3541,)
"""Of the 12,000 training images' pixels / 255, to four decimals."""


def load(root: Path | None = None) -> Dataset:
    """The shipped subset, each split in the order of its source. ValueError when a file is not as listed."""
    return Dataset(
        name="fashion-mnist",
        train=_load_split("train", root),
        test=_load_split("test", root),
        classes=CLASSES,
        origin="Fashion-MNIST (subset)",
        licence="MIT",
    )


def _load_split(name, root):
    table_file = manifest.verify(f"{FOLDER}/{name}.csv", root)
    mosaic_file = manifest.verify(f"{FOLDER}/{name}.png", root)
    source_index, labels = np.loadtxt(table_file, dtype=np.int64, delimiter=",", skiprows=1, unpack=True)
    with Image.open(mosaic_file) as mosaic:
        images = from_mosaic(np.asarray(mosaic))
    # The mosaic is sorted by class, which makes it smaller and pleasant to look at; batches taken in order
    # from a sorted split would hold one class each.
    order = np.argsort(source_index)
    return Split(
        images=torch.from_numpy(images[order]),
        labels=torch.from_numpy(labels[order]),
        name=f"fashion-mnist/{name}",
        mean=MEAN,
        std=STD,
    )


def to_mosaic(images: np.ndarray) -> np.ndarray:
    """uint8 [N, 28, 28], N a multiple of 100 -> uint8 [28 N / 100, 2800], tiles in reading order."""
    grid = images.reshape(-1, COLUMNS, SIDE, SIDE)
    return grid.swapaxes(1, 2).reshape(-1, COLUMNS * SIDE)


def from_mosaic(mosaic: np.ndarray) -> np.ndarray:
    """The inverse of `to_mosaic`."""
    grid = mosaic.reshape(-1, SIDE, COLUMNS, SIDE)
    return grid.swapaxes(1, 2).reshape(-1, SIDE, SIDE)
