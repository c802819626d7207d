"""The small Llamas of the SAU experiment, trained by `palimpsest.chapters.sau.ship`: float16 on disk.

They are shipped because training them is chaotic: the last digits, which differ between processors, are amplified
until the weights have little in common, and what is measured afterwards differs as it does between seeds.
"""

import torch
from safetensors.torch import load_file
from torch import Tensor

from . import manifest

FOLDER = "sau_models"


def name(group: str, seed: int, whose: str) -> str:
    """The path of a model under `data/`."""
    return f"{FOLDER}/{group}-{seed}-{whose}.safetensors"


def load(group: str, seed: int, whose: str) -> dict[str, Tensor]:
    """Weights by parameter, float32. Raises ValueError for a model that is not shipped, or a file that is altered."""
    stored = load_file(manifest.verify(name(group, seed, whose)))
    return {parameter: weight.to(torch.float32) for parameter, weight in stored.items()}
