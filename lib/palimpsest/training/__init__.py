"""Training: one loop (`loop.Run`), its checkpoints, its seeds, and classifiers and language models on it.

`training.language` is imported on demand, because transformers is slow to import.
"""

from .classifiers import (
    History,
    Recipe,
    accuracy,
    decay_groups,
    fit,
    forward,
    logits,
    predict,
    stop_if_collapsed,
)
from .loop import TrainingDiverged
from .seeds import epoch_order

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
    "stop_if_collapsed",
]
