"""Data sets as tensors, for methods that go through their samples in an order of their own."""

from collections.abc import Iterator, Mapping
from operator import index as index_of

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

IMAGES, LABELS = ("pixel_values", "image", "images", "x"), ("labels", "label", "y")
"""Under which names a sample that is a dictionary may hold the two, as data sets of transformers do."""


def tensors_of(name: str, data: object) -> tuple[Tensor, Tensor]:
    """All samples of `data`: images [N, ...] in the dtype that they come in, and labels [N] int64.

    A DataLoader's data set is read, sample after sample in its own order, so that its indices are those of `forget`
    whether the loader shuffles or not. A sample is a pair of image and label, or a dictionary that names them
    (IMAGES, LABELS). A pair of tensors or arrays is taken as it is. What a data set draws at random (augmentation)
    is drawn once.

    Raises ValueError, which names the argument `name`, for a loader over a stream and for samples of other forms.
    """
    if isinstance(data, tuple | list) and len(data) == 2 and all(hasattr(part, "shape") for part in data):
        return torch.as_tensor(data[0]), torch.as_tensor(data[1])
    source = data.dataset if isinstance(data, DataLoader) else data
    if not hasattr(source, "__getitem__") or not hasattr(source, "__len__"):
        raise ValueError(f"{name}: got {type(source).__name__}, want a pair of tensors, or a data set with a length")
    if len(source) == 0:
        raise ValueError(f"{name}: got an empty data set, want samples")
    images, labels = zip(*_pairs(name, source), strict=True)
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise ValueError(f"{name}: got images of {len(shapes)} shapes, want one; resize them in the data set")
    return torch.stack(images), torch.tensor(labels)


def pair_of(name: str, given: object) -> tuple[object, object] | None:
    """(image, label) of a sample, or (images, labels) of a batch: a pair, or a dictionary that names them (IMAGES,
    LABELS); None for other forms. ValueError, which names the argument `name`, for a dictionary without them."""
    if isinstance(given, Mapping):
        return _named(name, given, IMAGES), _named(name, given, LABELS)
    return tuple(given) if isinstance(given, tuple | list) and len(given) == 2 else None


def _pairs(name: str, source: Dataset) -> Iterator[tuple[Tensor, int]]:
    for index in range(len(source)):
        sample = source[index]
        pair = pair_of(name, sample)
        if pair is None:
            raise ValueError(f"{name}: got a sample {type(sample).__name__}, want a pair of image and label")
        image, label = pair
        if not hasattr(image, "shape"):
            raise ValueError(f"{name}: got an image {type(image).__name__}, want a tensor: transform it to one")
        try:
            yield torch.as_tensor(image), index_of(label)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: got the label {label!r} in sample {index}, want a class number") from error


def _named(name: str, sample: Mapping, names: tuple[str, ...]) -> object:
    found = [sample[key] for key in names if key in sample]
    if not found:
        raise ValueError(f"{name}: got a sample with {sorted(sample)}, want one of {names} in it")
    return found[0]
