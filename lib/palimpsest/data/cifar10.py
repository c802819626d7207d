"""CIFAR-10 in the hub's layout, from a local mirror or, if the reader allows it, from the hub.

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009); hub repository
`uoft-cs/cifar10`, folder `plain_text`. Not shipped: the set states no licence.
"""

import os
from pathlib import Path

import torch

from . import hub
from .parquet import read_images, shards
from .splits import Dataset, Split

REPOSITORY = "uoft-cs/cifar10"
FOLDER = "plain_text"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Of the original 50,000 training images' pixels / 255; used for re-encoded copies too."""


def load() -> Dataset:
    """CIFAR-10, in the order of its files; `origin` reads "CIFAR-10 (JPEG)" where the images are JPEG.

    Raises ValueError when neither way to the files is open, or a file is missing or unreadable.
    """
    train, train_kind = _load_split("train")
    test, test_kind = _load_split("test")
    lossy = "JPEG" in (train_kind, test_kind)
    return Dataset(
        name="cifar10",
        train=train,
        test=test,
        classes=CLASSES,
        origin="CIFAR-10 (JPEG)" if lossy else "CIFAR-10",
        licence="none stated; research use",
    )


def _load_split(name):
    images, labels, kind = read_images(_files(name), column="img", mode="RGB")
    split = Split(
        images=torch.from_numpy(images),
        labels=torch.from_numpy(labels),
        name=f"cifar10/{name}",
        mean=MEAN,
        std=STD,
    )
    return split, kind


def _files(split):
    if mirror := os.environ.get("PALIMPSEST_HUB"):
        return shards(Path(mirror) / REPOSITORY / FOLDER, split)
    return [hub.file(REPOSITORY, f"{FOLDER}/{split}-00000-of-00001.parquet")]
