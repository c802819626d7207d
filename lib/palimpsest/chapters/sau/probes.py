"""Looks aside, at the small model: where the gradient of forgetting falls once it is pruned, what redistribution does
to a step, and how chaotic training is."""

import math

import torch
from torch import Tensor, nn

from palimpsest.chapters.sau.profiles import PROFILES
from palimpsest.chapters.sau.small import Cohort
from palimpsest.chapters.sau.small_measures import half
from palimpsest.chapters.shared.profiles import choose
from palimpsest.nets.language import Encoded
from palimpsest.training import seeds
from palimpsest.training.language import answer_loss, fit
from palimpsest.unlearning.language import importances, pruned_share
from palimpsest.unlearning.language.evaluation import probability
from palimpsest.unlearning.language.optimiser import adam
from palimpsest.unlearning.language.task import Task
from palimpsest.unlearning.language.update import Update, lost_progress, scales

STEP = 4e-3
"""The step size at which `steps` measures what a step does."""
BATCHES = 3
"""Of the forget set, whose gradients make up Adam's moments."""


def lost_gradient(profile: str, seed: int, pruner: str, sparsity: str) -> list[dict]:
    """Of each pruned matrix, the "share" of the squared norm of the forget loss's gradient that falls on pruned
    weights, and the share "expected" if the gradient took no notice of the mask; by layer and matrix."""
    cohort = Cohort(choose(profile, PROFILES), "replication", seed)
    model, masks = cohort.load("target", pruner, sparsity)
    shares = pruned_share(model, cohort.encode(cohort.forget), masks)
    name = {"seed": seed, "pruner": pruner, "sparsity": sparsity}
    rows = []
    for parameter, share in shares.items():
        parts = parameter.split(".")
        row = {**name, "layer": int(parts[parts.index("layers") + 1]), "matrix": parts[-2], "share": share}
        rows.append(row | {"expected": 1 - masks.kept[parameter].float().mean().item()})
    return rows


def steps(profile: str, seed: int, pruner: str, sparsity: str) -> list[dict]:
    """One step away from the forget answers, from a pruned target, in four forms: "unmasked", Adam's direction u as
    if pruned weights could move; "masked", M⊙u; "redistributed", M⊙c⊙u; "masked, as long", M⊙u lengthened to the
    length of the third. Of the pruned matrices, all together:

    "length", of the first's; "cosine" with the first; "progress", the first-order change of the forget loss, of the
    first's; and at step size `STEP`, in nats a token, "forget" and "retain", by how much the losses rise.
    """
    cohort = Cohort(choose(profile, PROFILES), "replication", seed)
    model, masks = cohort.load("target", pruner, sparsity)
    weights = {name: p for name, p in model.named_parameters() if name in masks.kept}
    forget, known = cohort.encode(cohort.forget), cohort.encode(cohort.known)
    rest = {"parameters": weights, "kept": masks.kept, "batch_size": cohort.setting.unlearn_batch}
    settings = Update(masks)
    importance = importances(Task(model, forget, known, **rest), settings.importance)
    batches = forget.ids.new_tensor(range(len(forget))).tensor_split(BATCHES)
    gradients = [_gradient(model, weights, forget.subset(rows)) for rows in batches]
    grad = {name: sum(g[name] for g in gradients) / BATCHES for name in weights}
    unmasked = {name: _direction([g[name] for g in gradients]) for name in weights}
    lam = {n: lost_progress(grad[n], unmasked[n], masks.kept[n], importance[n], settings.eps) for n in weights}
    masked = {name: unmasked[name] * masks.kept[name] for name in weights}
    redistributed = {n: masked[n] * scales(lam[n], importance[n], settings.c_max) for n in weights}
    longer = _length(redistributed) / _length(masked)
    forms = {"unmasked": unmasked, "masked": masked, "redistributed": redistributed}
    forms["masked, as long"] = {name: longer * step for name, step in masked.items()}
    before = [_losses(model, part) for part in (forget, known)]
    rows = []
    for form, step in forms.items():
        _move(weights, step, STEP)
        after = [_losses(model, part) for part in (forget, known)]
        _move(weights, step, -STEP)
        rows.append(
            {"seed": seed, "pruner": pruner, "sparsity": sparsity, "step": form}
            | {"length": _length(step) / _length(unmasked)}
            | {"cosine": _inner(step, unmasked) / (_length(step) * _length(unmasked))}
            | {"progress": _inner(step, grad) / _inner(unmasked, grad)}
            | {"forget": after[0] - before[0], "retain": after[1] - before[1]}
        )
    return rows


def _gradient(model: nn.Module, weights: dict[str, Tensor], encoded: Encoded) -> dict[str, Tensor]:
    """That of the mean loss of an answer token: uphill is where forgetting goes."""
    found = torch.autograd.grad(answer_loss(model, encoded), list(weights.values()))
    return dict(zip(weights, found, strict=True))


def _direction(gradients: list[Tensor]) -> Tensor:
    """Adam's, after these gradients."""
    mean = square = torch.zeros_like(gradients[0])
    for step, g in enumerate(gradients, 1):
        mean, square, direction = adam(mean, square, g, step)
    return direction


@torch.no_grad()
def _losses(model: nn.Module, encoded: Encoded) -> float:
    return float(answer_loss(model, encoded))


@torch.no_grad()
def _move(weights: dict[str, Tensor], step: dict[str, Tensor], by: float) -> None:
    for name, weight in weights.items():
        weight.add_(step[name], alpha=by)


def _inner(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return math.fsum(float((a[name].double() * b[name]).sum()) for name in a)


def _length(a: dict[str, Tensor]) -> float:
    return math.sqrt(_inner(a, a))


def train_again(profile: str, seed: int, nudge: float) -> dict:
    """Train the dense target of a verdict seed from scratch, each starting weight times 1 + nudge · N(0, 1).

    Returns the mean loss of each epoch in nats as "losses", the mean answer probabilities of "forget" and of the test
    half's "retain", and "apart", the distance of its weights from those of the experiment's target as a share of
    their norm.
    """
    cohort = Cohort(choose(profile, PROFILES), "replication", seed)
    model, generator = cohort.untrained(), seeds.generator(seed, "nudge")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + nudge * torch.randn(parameter.shape, generator=generator))
    losses = fit(model, cohort.material("target"), cohort.setting.training, seed)
    used, _ = cohort.load("target")
    mine, theirs = (torch.nn.utils.parameters_to_vector(m.parameters()).detach() for m in (model, used))
    return {
        "nudge": nudge,
        "losses": losses,
        "forget": probability(model, cohort.encode(cohort.forget)),
        "retain": probability(model, cohort.encode(half(cohort, "test")["retain"])),
        "apart": float((mine - theirs).norm() / theirs.norm()),
    }
