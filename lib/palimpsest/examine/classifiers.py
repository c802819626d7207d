"""Image classifiers of transformers under the methods of `unlearning.vision`, each tried on a few random pictures."""

import copy

import torch
from torch import nn
from transformers import AutoModelForImageClassification, PretrainedConfig

from palimpsest.data.folders import weights
from palimpsest.nets.classifier import logits_of
from palimpsest.training.loop import TrainingDiverged
from palimpsest.unlearning.vision import METHODS, unlearn

from .findings import Findings, Use, attempt, counted

PICTURES = 4
SIDE = 64
"""Of a picture, where the configuration names none: a convolution net takes any."""


def findings(name: str, config: PretrainedConfig) -> Findings:
    """Every method does one epoch on random pictures, half of which are to be forgotten, from a copy of the model.

    Raises ValueError for a model that cannot be read.
    """
    model = weights(AutoModelForImageClassification, "model", name, torch.float32)
    side = getattr(config, "image_size", None) or SIDE
    height, width = (side, side) if isinstance(side, int) else side
    pictures = torch.rand(PICTURES, config.num_channels, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, why = attempt(lambda: logits_of(model(pictures)))
    facts = {
        "class": type(model).__name__,
        "weights": sum(p.numel() for p in model.parameters()),
        "pictures": f"{config.num_channels} × {height} × {width}, normalised as they were for training",
        "classes": config.num_labels,
    }
    if logits is None:
        return Findings(name, facts, [Use("unlearn", why)])
    refused = {kind: why for kind in METHODS if (why := _tried(model, pictures, kind, logits.shape[1]))}
    left = len(refused) < len(METHODS)
    return Findings(
        name, facts, [Use("unlearn", None if left else next(iter(refused.values())), counted(refused, list(METHODS)))]
    )


def _tried(model: nn.Module, pictures: torch.Tensor, method: str, classes: int) -> str | None:
    """Why the method cannot be used with such a network."""
    labels, forget = torch.arange(PICTURES) % classes, torch.arange(PICTURES // 2)
    settings = {"lr": METHODS[method].grid[0], "epochs": 1, "batch_size": PICTURES}
    try:
        unlearn([copy.deepcopy(model)], pictures, labels, forget, METHODS[method], **settings)
    except TrainingDiverged:  # of a step on noise nothing follows for the reader's pictures
        return None
    except ValueError as error:
        return str(error)
    return None
