"""Every method on the one loop of training: masked AdamW, warm-up and linear decay.

The protocol is open-unlearning's: an epoch is one pass over the forget set with as many retain sequences beside it;
AdamW with transformers' defaults, the step size rising linearly over the first epoch and falling linearly to 0.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from palimpsest.nets.language import Encoded
from palimpsest.pruning import Masks
from palimpsest.training import checkpoints, seeds
from palimpsest.training.loop import Run, TrainingDiverged, require_finite
from palimpsest.unlearning.language.checks import check
from palimpsest.unlearning.language.importance import importances
from palimpsest.unlearning.language.lora import LoraSettings, adapted
from palimpsest.unlearning.language.method import Objective
from palimpsest.unlearning.language.optimiser import Survivors
from palimpsest.unlearning.language.task import Task
from palimpsest.unlearning.language.update import DENSE, Update, movable


@dataclass(frozen=True)
class Report:
    """What a run did: `log`, a row per update; `epochs`, after how many of them the model is taken; positions of
    sequences passed forward and backward, those of reference passes and importances included; wall time in `seconds`,
    without what it took to look at the model."""

    log: list[dict]
    epochs: int
    tokens_forward: int
    tokens_backward: int
    seconds: float


def unlearn(
    model: nn.Module,
    forget: Encoded,
    retain: Encoded,
    method: Objective,
    *,
    lr: float,
    update: Update = DENSE,
    epochs: int = 10,
    batch_size: int = 32,
    seed: int = 0,
    weight_decay: float = 0.01,
    warmup_epochs: float = 1,
    idk: Encoded | None = None,
    lora: LoraSettings | None = None,
    after_epoch: Callable[[int], bool | None] | None = None,
    after_update: Callable[[int], bool | None] | None = None,
    choose: Callable[[int], float | None] | None = None,
    checkpoint: Path | None = None,
    show: str | None = None,
) -> Report:
    """Make `model`, a transformers decoder in float32 or float64, forget, in place.

    Args:
        forget, retain: the sequences; an update takes `batch_size` (or a few less) of each.
        method: the objective, for example `METHODS["NPO"]`.
        lr: peak step size; it is reached at the end of `warmup_epochs`.
        update: which weights move and how far. Entries that its masks prune keep every bit, also non-zero ones.
        weight_decay: decoupled, of matrices.
        idk: for IdkDPO and DPO, for each row of `forget` an answer to prefer.
        lora: train adapters and merge them at the end; with masks, into surviving weights only.
        after_epoch: called with the number of epochs done, when the model (with adapters, under LoRA) is as it would
            be if the run ended; what it does to the weights that move is undone. A false value ends the run, but
            for None. It is not called again for epochs before a resumption.
        after_update: the same after each update, called with the number of updates done; it is called again for
            updates of an epoch that a resumption repeats.
        choose: called as `after_epoch` is, and says how good the model is: it is handed over as it was when the least
            number came; None is for one that must not be. Where no epoch gave a number, the model is as it was given,
            and the report's `epochs` is 0.
        checkpoint: a folder; written after each epoch. A run that was stopped goes on when called again with the
            model as it was at its start, and ends with the same bits. The folder of another run raises ValueError.
        show: label of a progress bar; silent without.

    Raises ValueError for inputs that cannot be meant; TrainingDiverged when a loss, gradient or weight is not finite,
    with the last good checkpoint kept; RuntimeError if a pruned entry changed.
    """
    check(model, forget, retain, method, idk, lr, epochs, batch_size, seed, weight_decay, warmup_epochs)
    update = method.setting(update)
    if lora is not None and update.scaling != "none":
        raise ValueError(
            f"lora: got adapters and scaling {update.scaling!r}, want 'none': they have no weight's own step"
        )
    if update.masks is not None:
        update.masks.require_for(model)
    device = next(model.parameters()).device
    forget, retain, idk = (data if data is None else data.to(device) for data in (forget, retain, idk))
    settings = [lr, epochs, batch_size, seed, weight_decay, warmup_epochs]
    run = Run(checkpoint, lambda: _identity(model, (forget, retain, idk), method, update, lora, settings))
    taken, stopped = run.values.get("taken", 0), run.values.get("stopped", False)
    pruned = _pruned_bits(model, update.masks)
    began, outside = time.perf_counter() - run.values.get("seconds", 0.0), 0.0
    with _moving(model, update, lora, seed) as (parameters, kept):
        sizes = {"seed": seed, "epochs": epochs, "batch_size": batch_size}
        task = Task(model, forget, retain, idk, parameters=parameters, kept=kept, **sizes)
        method.begin(task)
        importance = {} if update.scaling == "none" else importances(task, update.importance)
        optimiser = Survivors(parameters, kept, importance, update, weight_decay)
        if run.done:
            optimiser.steps = run.done * task.steps
            task.log, task.tokens_forward, task.tokens_backward = run.values["task"]
        rising, total = round(warmup_epochs * task.steps), epochs * task.steps
        least = run.values.get("least")
        if choose is not None and not run.done:
            run.extra = {name: p.detach().clone() for name, p in parameters.items()}

        def shown(look: Callable[[int], float | bool | None], done: int) -> float | bool | None:
            """What `look` says of the model as the method would leave it now."""
            nonlocal outside
            require_finite(parameters.values())  # nobody must be shown a model that is lost
            began = time.perf_counter()
            trained = {name: p.detach().clone() for name, p in parameters.items()}
            method.finish(task)
            answer = look(done)
            _restore(parameters, trained)
            outside += time.perf_counter() - began
            return answer

        def ended(look: Callable[[int], bool | None] | None, done: int) -> bool:
            answer = None if look is None else shown(look, done)
            return answer is not None and not answer

        def epoch(number: int) -> Iterator[None]:
            nonlocal taken, stopped, least
            for forget_batch, retain_batch in task.batches(number):
                yield
                rate = lr * schedule(optimiser.steps, total, rising)
                try:
                    gradients = method.gradients(task, forget_batch, retain_batch)
                    if not math.isfinite(task.noted["loss"]):
                        raise TrainingDiverged(f"the loss is {task.noted['loss']}")
                    task.note(lr=rate, **optimiser.step(gradients, rate))
                except ValueError as error:  # operations refuse what is not finite
                    raise TrainingDiverged(str(error)) from error
                task.record(number)
                stopped = ended(after_update, optimiser.steps)
                if stopped:
                    break
            # Asked before the state is saved, because the answer is part of it.
            stopped = ended(after_epoch, number + 1) or stopped
            value = None if choose is None else shown(choose, number + 1)
            if choose is None:
                taken = number + 1
            elif value is not None and (least is None or value < least):
                taken, least = number + 1, value
                run.extra = {name: p.detach().clone() for name, p in parameters.items()}
            run.values = {
                "task": [task.log, task.tokens_forward, task.tokens_backward],
                "seconds": time.perf_counter() - began - outside,
                "stopped": stopped,
                "taken": taken,
                "least": least,
            }

        run.train(
            epoch,
            parameters,
            optimiser,
            steps=0 if stopped else total,
            every=task.steps,
            lr=lr,
            after=lambda _: stopped,
            show=show,
        )
        if choose is not None:
            _restore(parameters, run.extra)
        method.finish(task)
    if _pruned_bits(model, update.masks) != pruned:
        raise RuntimeError("a pruned weight changed: the masks were not kept")
    seconds = time.perf_counter() - began - outside
    return Report(task.log, taken, task.tokens_forward, task.tokens_backward, seconds)


def schedule(step: int, total: int, rising: int) -> float:
    """The share of the peak step size of update `step` of `total`, counted from 0: linear up over `rising` updates,
    then linear down. transformers' own schedule spends its first update on a step of 0; this one does not."""
    if step < rising:
        return (step + 1) / rising
    return (total - step) / (total - rising)


@contextmanager
def _moving(model: nn.Module, update: Update, lora: LoraSettings | None, seed: int) -> Iterator[tuple[dict, dict]]:
    """(parameters that move, masks of those that are pruned), by name. Only they have gradients inside, and dropout
    is off, so that log-probabilities can be compared with those of the reference."""
    training, flags = model.training, {p: p.requires_grad for p in model.parameters()}
    model.eval()
    try:
        if lora is not None:
            generator = seeds.generator(seed, "adapters")
            with adapted(model, lora, update, generator) as parameters:
                _require_grad(model, parameters)
                yield parameters, {}
        else:
            parameters = movable(model, update)
            masks = {} if update.masks is None else update.masks.kept
            _require_grad(model, parameters)
            yield parameters, {n: masks[n].to(p.device) for n, p in parameters.items() if n in masks}
    finally:
        model.train(training)
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)


def _require_grad(model: nn.Module, parameters: dict[str, Tensor]) -> None:
    inside = {id(p) for p in parameters.values()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in inside)


def _restore(parameters: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)


def _pruned_bits(model: nn.Module, masks: Masks | None) -> str:
    """A digest of the pruned entries as they are, whatever their values."""
    named = dict(model.named_parameters())
    kept = {} if masks is None else masks.kept
    return checkpoints.digest(torch.where(mask.to(named[n].device), 0, named[n]) for n, mask in kept.items())


def _identity(model, sets, method, update, lora, settings) -> dict:
    masks = {} if update.masks is None else update.masks.kept
    rest = {name: value for name, value in vars(update).items() if name != "masks"}
    return {
        "method": f"{type(method).__name__} {asdict(method)}",
        "update": f"{rest} {list(masks)} {checkpoints.digest(masks.values())}",
        "lora": str(lora),
        "settings": settings,
        "data": [data and checkpoints.digest([data.ids, data.labels]) for data in sets],
        "start": checkpoints.digest(model.parameters()),
    }
