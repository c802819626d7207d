"""Training: seeded, resumable, with a progress bar."""

from .classifiers import (
    History,
    Recipe,
    TrainingDiverged,
    accuracy,
    decay_groups,
    epoch_order,
    fit,
    forward,
    logits,
    predict,
    stop_if_lost,
)

__all__ = [
    "History",
    "Recipe",
    "TrainingDiverged",
    "accuracy",
    "decay_groups",
    "epoch_order",
    "fit",
    "forward",
    "logits",
    "predict",
    "stop_if_lost",
]
