"""ELPV: 2,624 electroluminescence images of solar cells, four ordered grades of defect. Opt-in, not shipped.

Source: Deitsch et al., "Automatic classification of defective photovoltaic module cells in
electroluminescence images", Solar Energy 185 (2019); PyPI package `elpv-dataset`, CC-BY-NC-SA-4.0.
Grade g stands for a defect probability of g / 3. The package has no split; ours is 75 % for training and
25 % for test, stratified by grade, with a fixed seed.
"""

import numpy as np
import torch

from .splits import Dataset, Split

CLASSES = ("0 %", "33 %", "67 %", "100 %")
MEAN, STD = (0.5972,), (0.1606,)
"""Of the training split's pixels / 255, to four decimals."""


def load() -> Dataset:
    """ELPV with 300 × 300 grey images. ValueError when the package is not installed or holds other grades."""
    # Here, not above: whoever loads another set should not wait for scikit-learn's import.
    from sklearn.model_selection import train_test_split

    try:
        from elpv_dataset.utils import load_dataset
    except ImportError as error:
        raise ValueError(
            "elpv is not shipped (CC-BY-NC-SA-4.0); install its package: pip install elpv-dataset"
        ) from error
    images, probability, _ = load_dataset()
    labels = np.rint(3 * probability).astype(np.int64)
    # The package writes 1/3 as 0.3333333333333333, and 2/3 likewise.
    if not np.allclose(labels / 3, probability, rtol=0, atol=1e-6):
        raise ValueError(f"elpv-dataset: got defect probabilities {np.unique(probability)}, want 0, 1/3, 2/3, 1")
    train, test = train_test_split(np.arange(len(labels)), test_size=0.25, stratify=labels, random_state=0)

    def split(name, indices):
        indices = np.sort(indices)
        return Split(
            images=torch.from_numpy(images[indices]),
            labels=torch.from_numpy(labels[indices]),
            name=f"elpv/{name}",
            mean=MEAN,
            std=STD,
        )

    return Dataset(
        name="elpv",
        train=split("train", train),
        test=split("test", test),
        classes=CLASSES,
        origin="ELPV",
        licence="CC-BY-NC-SA-4.0",
    )
