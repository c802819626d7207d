"""Which surviving weights matter: the three importances of the redistribution, each from one pass over the data.

Our reading throughout (`update`): computed once, from the model as it was given, and normalised row by row.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from palimpsest.nets import language
from palimpsest.nets.language import Encoded
from palimpsest.pruning import Masks
from palimpsest.pruning.wanda import squared_norms
from palimpsest.unlearning.language.method import sequence_loss
from palimpsest.unlearning.language.task import Batch, Gradients, Task


def normalised(scores: Tensor, kept: Tensor) -> Tensor:
    """R [rows, columns]: scores divided by their row's mean over survivors, 0 where pruned.

    scores: at least 0; kept: bool. A row whose survivors all score 0 gets 1 at each of them.
    """
    held = scores * kept
    total = held.sum(1, keepdim=True)
    return torch.where(total > 0, held * (kept.sum(1, keepdim=True) / total), kept.to(scores.dtype))


def importances(task: Task, kind: str) -> dict[str, Tensor]:
    """R of every pruned matrix that moves, by name, in its shape and dtype.

    kind: "wanda" is |W|·‖X_j‖₂ with X the inputs of the matrix on retain sequences (Sun et al. 2024, equation 1);
    "saliency" is |W·∂L/∂W| with L the summed loss of all forget answers (NPO's gradient at its start is parallel to
    that); "fisher" is F_forget / (F_retain + mean of F_retain over the matrix), each F the sum over sequences of the
    squared gradient of an answer's loss. Retain sequences are those of the first epoch, as many as are forgotten.
    """
    scores = {"wanda": _wanda, "saliency": _saliency, "fisher": _fisher}[kind](task)
    return {name: normalised(scores[name], kept) for name, kept in task.kept.items()}


def pruned_share(model: nn.Module, encoded: Encoded, masks: Masks, batch_size: int = 32) -> dict[str, float]:
    """Of each pruned matrix, the share of the squared norm of the gradient of all answers' summed loss that falls on
    pruned weights: 0 where none does, 1 where all. A matrix whose gradient is 0 has the share nan."""
    masks.require_for(model)
    named = dict(model.named_parameters())
    parameters = {name: named[name] for name in masks.kept}
    kept = {name: mask.to(parameters[name].device) for name, mask in masks.kept.items()}
    encoded = encoded.to(next(iter(parameters.values())).device)
    task = Task(model, encoded, encoded, parameters=parameters, kept=kept, batch_size=batch_size)
    squared = {name: g.double().square() for name, g in forget_gradient(task).items()}
    return {name: ((g * ~kept[name]).sum() / g.sum()).item() for name, g in squared.items()}


def forget_gradient(task: Task) -> Gradients:
    """The gradient of the summed loss of all forget answers."""
    total: Gradients = {}
    for batch in task.whole(task.forget):
        for name, g in task.gradients(sequence_loss(task, batch).sum()).items():
            total[name] = total[name] + g if name in total else g
    return total


def _saliency(task: Task) -> dict[str, Tensor]:
    gradient = forget_gradient(task)
    return {name: (task.parameters[name] * gradient[name]).abs().detach() for name in task.kept}


def _fisher(task: Task) -> dict[str, Tensor]:
    forget = _squared_gradients(task, task.forget, torch.arange(len(task.forget)))
    retain = _squared_gradients(task, task.retain, task.retain_rows(0))
    # Damped by the mean: else weights that no retain sequence uses would take their whole row.
    floor = torch.finfo(next(iter(forget.values())).dtype).tiny
    return {name: f / (retain[name] + retain[name].mean().clamp(min=floor)) for name, f in forget.items()}


def _squared_gradients(task: Task, encoded: Encoded, rows: Tensor) -> dict[str, Tensor]:
    """Σ over sequences of the squared gradient of each one's summed loss.

    A sequence's own gradient of a matrix is Σ_t δ_t x_tᵀ, with x its inputs and δ the gradients of its outputs: so
    one backward pass serves a batch.
    """
    total = {name: torch.zeros_like(task.parameters[name]) for name in task.kept}
    batches: list[Batch] = []  # the last is under way

    def forward(name: str, module: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
        def backward(gradients: Tensor) -> None:
            deltas, xs = (
                _by_sequence(name, gradients, batches[-1]),
                _by_sequence(name, inputs[0].detach(), batches[-1]),
            )
            for delta, x in zip(deltas, xs, strict=True):
                own = delta.T @ x
                total[name].addcmul_(own, own)

        outputs.register_hook(backward)

    language.output_embedding(task.model)  # its first call runs the model, which the hooks must not see
    with _hooked(task, "register_forward_hook", forward):
        for part in rows.split(task.batch_size):
            batches.append(task.batch(encoded, part))
            task.gradients(sequence_loss(task, batches[-1]).sum())
    return total


def _wanda(task: Task) -> dict[str, Tensor]:
    norms: dict[str, Tensor] = {}
    batches: list[Batch] = []  # the last is under way

    def add(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # Up to the last label of its row a position is no padding.
        seen = batches[-1].counted.flip(1).cumsum(1).flip(1) > 0
        norms[name] = norms.get(name, 0) + squared_norms(_by_sequence(name, inputs[0], batches[-1])[seen])

    with torch.no_grad(), _hooked(task, "register_forward_pre_hook", add):
        for rows in task.retain_rows(0).split(task.batch_size):
            batches.append(task.batch(task.retain, rows))
            task.hidden(batches[-1])
    return {name: (task.parameters[name].abs() * norms[name].sqrt()).detach() for name in task.kept}


def _by_sequence(name: str, values: Tensor, batch: Batch) -> Tensor:
    """[B, T, D], also where a layer works on all positions of a batch at once, [B·T, D]. Raises ValueError for a
    matrix that sees only some of them."""
    shape = batch.encoded.ids.shape
    if values.shape[:-1].numel() != shape.numel():
        raise ValueError(
            f"model: {name} sees {values.shape[:-1].numel()} of a batch's {shape.numel()} positions, want one that "
            "sees each (no expert to which some are sent)"
        )
    return values.reshape(*shape, -1)


@contextmanager
def _hooked(task: Task, kind: str, hook: Callable) -> Iterator[None]:
    """Inside, `hook(name, module, …)` is called by the modules of all pruned matrices."""
    modules = {name: task.model.get_submodule(name.removesuffix(".weight")) for name in task.kept}
    hooks = [getattr(module, kind)(partial(hook, name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()
