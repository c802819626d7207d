"""SAU, or any other method, on a model of the reader's own: a folder in, a folder out, with a report."""

import json
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from palimpsest import pruning, runs
from palimpsest.nets import language
from palimpsest.pruning import Masks
from palimpsest.pruning.decoder import decoder_layers
from palimpsest.unlearning.language import LoraSettings, unlearn
from palimpsest.unlearning.language.evaluation import generate, probability
from palimpsest.unlearning.language.request import HALVINGS, LR, MASKS, PRUNER, SHOWN, SPARSITY, WRITTEN, Loaded
from palimpsest.unlearning.language.update import movable

REPORT = "unlearning.json"
WATCHED = 64
"""Retain questions that are looked at after each epoch: the first."""
PASSES = {"magnitude": 0, "random": 0, "wanda": 2, "sparsegpt": 4}
"""Forward passes over these tokens that take as long as a pruner does, roughly; Wanda's are passes."""


def require_memory(loaded: Loaded) -> float:
    """The gigabytes that a run needs: the weights, gradient, two moments and two copies of what moves, and three
    times the activations' share of a batch. ValueError where the machine has fewer available; nothing is computed."""
    request, model = loaded.request, loaded.model
    moving = movable(model, loaded.update).values()
    weights, moved = (sum(p.numel() for p in parameters) for parameters in (model.parameters(), moving))
    layers, tokens = decoder_layers(model), request.batch_size * loaded.updated().ids.shape[1]
    # By the matrices: what a configuration calls their widths differs from class to class.
    inner = max(max(p.shape[-2:]) for layer in layers for p in layer.module.parameters() if p.ndim > 1)
    activations = tokens * len(layers) * (12 * model.config.get_text_config().hidden_size + 4 * inner)
    needed = 4 * (weights + 5 * moved + 3 * activations) / 1e9
    require_available(needed, "a smaller batch_size or top")
    return needed


def require_available(gigabytes: float, wanted: str) -> None:
    """ValueError where the machine has fewer available."""
    if gigabytes > (free := available() / 1e9):
        raise ValueError(f"model: needs about {gigabytes:.1f} GB, free are {free:.1f}; want {wanted}")


def estimate(loaded: Loaded) -> dict[str, float]:
    """Before the run: {"updates", "gigabytes", "minutes"}, the last from one measured pass forward and
    backward, without the runs that a halved step size costs. Raises ValueError as `require_memory`.
    """
    needed = require_memory(loaded)
    request, model = loaded.request, loaded.model
    forget, retain = loaded.updated(), loaded.encoded["retain"]
    rows = forget.subset(torch.arange(request.batch_size))
    moving = list(movable(model, loaded.update).values())
    began = time.perf_counter()
    torch.autograd.grad(language.logprobs(model, rows).sum(), moving, allow_unused=True)
    seconds = time.perf_counter() - began
    updates = request.epochs * -(-len(forget) // request.batch_size)
    # Tokens that are passed forward only, a third of the measured work: the pruner's, three looks at all sets, and
    # one at retain and forget after each epoch.
    forward = 0 if loaded.calibration is None else PASSES[request.pruner or PRUNER] * loaded.calibration.numel()
    forward += 3 * sum(encoded.ids.numel() for encoded in loaded.encoded.values())
    forward += request.epochs * (retain.ids[:WATCHED].numel() + forget.ids.numel()) if request.keep else 0
    # An update passes a forget and a retain batch, and steps.
    passes = 2.5 * updates + forward / (3 * rows.ids.numel())
    return {"updates": updates, "gigabytes": needed, "minutes": passes * seconds / 60}


def available() -> float:
    """Bytes of memory that a program can still have, caches of files included; where the system does not say, all
    that the machine has."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        found = re.search(r"^MemAvailable: *(\d+) kB", meminfo.read_text(), re.MULTILINE)
        if found:
            return 1024 * int(found[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def run(loaded: Loaded) -> dict:
    """Prune where asked, unlearn, write `out`, whole or not at all; returns the report that lies there as well.

    The model is that of the epoch after which the forget answers were least likely, among those that kept what
    `keep` asks for. A checkpoint is kept beside `out` after each epoch (`<out>.partial`), so that an interrupted run
    goes on. Where no epoch kept enough, the run begins again at half the step size, `HALVINGS` times at most; raises
    ValueError then, and at once where the request names the step size.
    """
    request, model, masks = loaded.request, loaded.model, loaded.masks
    before = measured(loaded)
    if loaded.calibration is not None:
        masks = pruning.prune(
            model,
            loaded.calibration,
            method=request.pruner or PRUNER,
            sparsity=SPARSITY if request.sparsity is None else request.sparsity,
            show="pruning",
        )
    pruned = None if loaded.calibration is None else measured(loaded)
    partial = request.out.with_name(request.out.name + ".partial")
    retain = loaded.encoded["retain"]
    watched = retain.subset(torch.arange(min(len(retain), WATCHED)))
    least = request.keep * probability(model, watched)

    def left(_: int) -> float | None:
        """The forget answers' probability, where enough is kept."""
        return None if probability(model, watched) < least else probability(model, loaded.updated())

    for lr in [LR / 2**halvings for halvings in range(HALVINGS + 1)] if request.lr is None else [request.lr]:
        done = unlearn(
            model,
            loaded.updated(),
            retain,
            loaded.method,
            lr=lr,
            update=replace(loaded.update, masks=masks),
            epochs=request.epochs,
            batch_size=request.batch_size,
            seed=request.seed,
            lora=None if request.lora is None else LoraSettings(request.lora),
            choose=left if request.keep else None,
            checkpoint=partial / f"{lr:.3g}",
            show="unlearning",
        )
        if done.epochs:
            break
        shutil.rmtree(partial / f"{lr:.3g}")
    else:
        shutil.rmtree(partial)
        raise ValueError(
            f"lr: got {lr:.3g}, at which every epoch leaves less than {request.keep:.0%} of the retain answers' "
            "probability; want a smaller lr, a larger alpha, or a smaller keep"
        )
    loaded.given.round_()  # what is measured is what is written
    report = {
        "request": {name: str(value) for name, value in vars(request).items()},
        "before": before,
        "pruned": pruned,
        "after": measured(loaded),
        "sparsity": None if masks is None else 1 - masks.share(),
        "share of the layers": None if masks is None else _pruned_share(model, masks),
        "dtype": str(loaded.given.dtype).removeprefix("torch."),
        "lr": lr,
        "pruned weights all zero": None if masks is None else masks.holds(model),
        "epochs": done.epochs,
        "seconds": done.seconds,
        "environment": runs.environment(),
    }

    def write(folder: Path) -> None:
        loaded.given.as_stored_().save_pretrained(folder, safe_serialization=True)
        loaded.given.tokenizer.save_pretrained(folder)
        if masks is not None:
            masks.save(folder / MASKS)
        (folder / REPORT).write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")

    runs.write_folder(request.out, write)
    shutil.rmtree(partial)
    return report


def _pruned_share(model: nn.Module, masks: Masks) -> float:
    """What is pruned as a share of all weights of the decoder's layers."""
    every = {p: p.numel() for layer in decoder_layers(model) for p in layer.module.parameters()}
    return sum(int((~mask).sum()) for mask in masks.kept.values()) / sum(every.values())


def measured(loaded: Loaded) -> dict:
    """Mean answer probabilities of all sets, and the model's own answers to the first questions of each."""
    found = {"answers": {}}
    for name, questions in loaded.sets.items():
        found[name] = probability(loaded.model, loaded.encoded[name])
        asked = questions.question[:SHOWN]
        found["answers"][name] = dict(
            zip(asked, generate(loaded.model, loaded.given.tokenizer, asked, WRITTEN), strict=True)
        )
    return found
