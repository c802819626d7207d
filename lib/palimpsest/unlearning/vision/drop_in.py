"""An image classifier of the reader's own, and data as a reader has them: forget, and say what came of it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from palimpsest.data.loaders import tensors_of
from palimpsest.metrics import membership
from palimpsest.training import seeds
from palimpsest.training.classifiers import logits
from palimpsest.unlearning.vision import trainer
from palimpsest.unlearning.vision.checks import named
from palimpsest.unlearning.vision.method import Method


@dataclass(frozen=True)
class Measured:
    """Shares in [0, 1]: right on the forget set (FA), on the others of the training set (RA) and on the test set
    (TA), and of the forget set taken for samples that were not trained on (MIA, `metrics.membership.svc_confidence`
    with as many retain as test samples). Without a test set TA and MIA are None.

    What is to be reached is what a network has that never saw the forget set. Without one, a first look: FA should
    come near TA, not 0, and RA and TA stay."""

    FA: float
    RA: float
    TA: float | None
    MIA: float | None


@dataclass(frozen=True)
class Report:
    """What the network was `before` and is `after`, and what the run did."""

    before: Measured
    after: Measured
    run: trainer.Report


def unlearn(
    model: nn.Module,
    train: object,
    forget: Tensor | np.ndarray | list,
    method: Method | str = "SalUn",
    *,
    lr: float,
    test: object = None,
    epochs: int = 10,
    batch_size: int = 256,
    retain_samples: int | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    show: str | None = None,
) -> Report:
    """Make `model` forget some of its training samples, in place; it comes back in the modes in which it came.

        report = unlearn(model, train_loader, forget=[3, 17, 28], method="SalUn", lr=0.01, test=test_loader)

    Between two calls of transformers' Trainer: `unlearn(trainer.model, trainer.train_dataset, ...)`, and
    `trainer.evaluate()` as before.

    Args:
        model: a classifier in float32 or float64 whose output is logits [N, classes], or has them as `logits` or
            first: of transformers, timm, torchvision, or of one's own.
        train, test: a DataLoader, a data set, or a pair (images, labels) of tensors or arrays; `loaders.tensors_of`.
            Images go to the dtype and device of the weights. All are held in memory.
        forget: indices into `train`'s data set, of any integer kind.
        method, lr, epochs, batch_size, retain_samples, checkpoint, show: as in `trainer.unlearn`; a run with a
            checkpoint that was stopped goes on when called again with the model as it was.

    Raises ValueError as `loaders.tensors_of` and `trainer.unlearn` do, and TrainingDiverged.
    """
    method, weight = named(method), next(model.parameters(), torch.empty(0))
    x, y = _placed("train", train, weight)
    forgotten = torch.as_tensor(forget, device=y.device) if len(forget) else torch.empty(0, dtype=torch.int64)
    held = None if test is None else _placed("test", test, weight)
    if forgotten.ndim != 1 or forgotten.dtype == torch.bool or forgotten.is_floating_point():
        raise ValueError(f"forget: got {forgotten.dtype} {list(forgotten.shape)}, want indices [F]")
    forgotten = forgotten.long()
    if not 2 <= len(forgotten) <= len(x) - 2:
        raise ValueError(f"forget: got {len(forgotten)} indices, want 2 to {len(x) - 2} of {len(x)} samples")
    if not 0 <= int(forgotten.min()) <= int(forgotten.max()) < len(x):
        raise ValueError(
            f"forget: got indices in {int(forgotten.min())} .. {int(forgotten.max())}, want below {len(x)}"
        )
    folder = None if checkpoint is None else Path(checkpoint)
    before = measured(model, x, y, forgotten, held, seed)
    run = trainer.unlearn(
        [model],
        x,
        y,
        forgotten,
        method,
        lr=lr,
        epochs=epochs,
        batch_size=batch_size,
        retain_samples=retain_samples,
        seeds=[seed],
        checkpoint=folder,
        show=show,
    )
    return Report(before, measured(model, x, y, forgotten, held, seed), run)


def measured(
    model: nn.Module, x: Tensor, y: Tensor, forget: Tensor, test: tuple[Tensor, Tensor] | None, seed: int
) -> Measured:
    """FA, RA, TA and MIA of `model`; `seed` draws the retain samples of the attack."""
    kept = torch.ones(len(x), dtype=torch.bool, device=x.device)
    kept[forget] = False
    p = _probabilities("train", model, x)
    right = (p.argmax(1) == y).double()
    fa, ra = float(right[~kept].mean()), float(right[kept].mean())
    if test is None:
        return Measured(fa, ra, None, None)
    p_test = _probabilities("test", model, test[0])
    retain = kept.nonzero().flatten()
    drawn = torch.randperm(len(retain), generator=seeds.generator(seed, "members"))[: len(p_test)]
    retain = retain[drawn.to(retain.device)]
    mia = membership.svc_confidence(p[retain], y[retain], p_test, test[1], p[~kept], y[~kept])
    return Measured(fa, ra, float((p_test.argmax(1) == test[1]).double().mean()), mia)


def _probabilities(name: str, model: nn.Module, x: Tensor) -> Tensor:
    """float64 [N, classes]. ValueError for logits that are not finite: their largest would be called class 0."""
    found = logits([model], x)[0].double()
    if not found.isfinite().all():
        bad = int((~found.isfinite().all(1)).sum())
        raise ValueError(
            f"model: gives logits that are not finite for {bad} of {len(x)} samples of {name}, want none"
        )
    return found.softmax(1)


def _placed(name: str, data: object, weight: Tensor) -> tuple[Tensor, Tensor]:
    x, y = tensors_of(name, data)
    if not x.is_floating_point():
        raise ValueError(f"{name}: got images of {x.dtype}, want floats, normalised as the model was trained on them")
    if x.ndim != 4:
        raise ValueError(f"{name}: got images of shape {list(x.shape)}, want [N, channels, height, width]")
    if y.dtype == torch.bool or y.is_floating_point() or y.shape != x.shape[:1]:
        raise ValueError(f"{name}: got labels {y.dtype} {list(y.shape)}, want integers [{len(x)}]")
    return x.to(weight.device, weight.dtype), y.long().to(weight.device)
