"""What is done to labels: drawing a class-balanced sample, and making some labels wrong on purpose."""

import torch


def class_balanced_draw(labels: torch.Tensor, per_class: int, generator: torch.Generator) -> torch.Tensor:
    """`per_class` samples of every class that occurs in `labels`, uniformly without replacement.

    labels: int64 [N]. Returns int64 indices, sorted, [per_class × number of classes].
    Raises ValueError naming the first class that has fewer than `per_class` samples.
    """
    _check_labels(labels)
    if per_class < 1:
        raise ValueError(f"per_class: got {per_class}, want at least 1")
    order = torch.randperm(len(labels), generator=generator)
    drawn = []
    for label in labels.unique().tolist():
        members = order[labels[order] == label]
        if len(members) < per_class:
            raise ValueError(f"per_class: class {label} has {len(members)} samples, {per_class} are wanted")
        drawn.append(members[:per_class])
    return torch.cat(drawn).sort().values


def symmetric_noise(
    labels: torch.Tensor, rate: float, classes: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make exactly round(rate · N) labels wrong, each uniformly one of the *other* classes.

    Convention: `rate` is the share of labels that end up wrong. Where the literature redraws a label from
    all K classes, only rate · (K - 1) / K of them end up wrong; that is not done here. A tie in
    rounding goes to the even number.

    labels: int64 [N] in 0 .. classes - 1; rate in [0, 1). Returns (noisy labels int64 [N], is_wrong
    bool [N]); the input is left alone. From equal generators, a higher rate adds wrong labels to those of
    a lower one and changes none of them.
    """
    wrong = _draw_wrong(labels, rate, classes, generator)
    shift = torch.randint(1, classes, labels.shape, generator=generator)
    return torch.where(wrong, (labels + shift) % classes, labels), wrong


def adjacent_noise(
    labels: torch.Tensor, rate: float, classes: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make exactly round(rate · N) labels wrong by one grade: for ordered grades.

    An inner grade moves up or down with equal chance; the lowest can only move up and the highest only
    down. Arguments, results and the rest of the convention are those of `symmetric_noise`.
    """
    wrong = _draw_wrong(labels, rate, classes, generator)
    step = 2 * torch.randint(0, 2, labels.shape, generator=generator) - 1
    step = torch.where(labels == 0, 1, torch.where(labels == classes - 1, -1, step))
    return torch.where(wrong, labels + step, labels), wrong


def _draw_wrong(labels, rate, classes, generator):
    _check_labels(labels)
    if not 0 <= rate < 1:
        raise ValueError(f"rate: got {rate}, want a share in [0, 1)")
    if classes < 2:
        raise ValueError(f"classes: got {classes}, want at least 2")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"labels: got values in {int(labels.min())} .. {int(labels.max())}, want 0 .. {classes - 1}")
    wrong = torch.zeros(labels.shape, dtype=torch.bool)
    wrong[torch.randperm(len(labels), generator=generator)[: round(rate * len(labels))]] = True
    return wrong


def _check_labels(labels):
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise ValueError(f"labels: got {labels.dtype} {list(labels.shape)}, want int64 [N]")
