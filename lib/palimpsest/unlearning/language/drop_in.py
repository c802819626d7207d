"""SAU, or any other method, on a model of the reader's own: a folder in, a folder out, with a report."""

import json
import os
import re
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from palimpsest import pruning, runs
from palimpsest.data import text
from palimpsest.data.folders import reading, weights
from palimpsest.data.questions import Questions, read_jsonl, refuse_overlap
from palimpsest.nets import language
from palimpsest.nets.language import Encoded
from palimpsest.pruning import Masks
from palimpsest.unlearning.language import METHODS, LoraSettings, Objective, Update, unlearn
from palimpsest.unlearning.language.checks import check
from palimpsest.unlearning.language.evaluation import generate, probability
from palimpsest.unlearning.language.update import movable

MASKS = "masks.safetensors"
REPORT = "unlearning.json"
SHOWN = 6
"""Questions of each set whose answers before and after are put into the report: the first."""
CALIBRATION = (64, 128)
"""Rows and tokens that a pruner sees."""
WATCHED = 64
"""Retain questions that are looked at after each epoch: the first."""
PASSES = {"magnitude": 0, "random": 0, "wanda": 2, "sparsegpt": 4}
"""Forward passes over these tokens that take as long as a pruner does, roughly; Wanda's are passes."""


@dataclass(frozen=True)
class Request:
    """What is asked for. `model` is a folder with safetensors, or a hub identifier where PALIMPSEST_ALLOW_HUB is 1.

    `forget`, `retain`, `held_out`: files as `data.questions.read_jsonl` reads them; the last is asked before and
    after, and never trained on. `sparsity` is a share, "N:M", or None for a model that stays dense; a model folder
    that holds `masks.safetensors` is taken as pruned by these. `calibration`: running text that the pruner sees, as
    `data.text.documents` reads it; None gives it the retain questions with their answers. `alpha`: the weight of the
    retain loss; None takes the method's own. `keep`: the run ends before the retain answers' mean probability falls
    below this share of what pruning left of it; with 0 it never does. `top` moves the last layers only; `lora` trains
    adapters of that rank.
    """

    model: str
    forget: Path
    retain: Path
    out: Path
    held_out: Path | None = None
    method: str = "SAU"
    sparsity: float | str | None = 0.5
    pruner: str = "wanda"
    calibration: Path | None = None
    lr: float = 1e-5
    alpha: float | None = None
    epochs: int = 10
    keep: float = 0.95
    batch_size: int = 8
    max_length: int = 512
    top: int | None = None
    lora: int | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Loaded:
    """A request with its model, masks and data, `sets` by name: forget, retain and, if there is any, held_out.

    `masks` is None where the folder has none; `calibration`, int64 tokens [rows, width], where nothing is pruned."""

    request: Request
    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    sets: dict[str, Questions]
    masks: Masks | None
    calibration: torch.Tensor | None

    @property
    def method(self) -> Objective:
        name = self.request.method
        chosen = next(m for known, m in METHODS.items() if known.casefold() == name.casefold())
        if self.request.alpha is None:
            return chosen
        if chosen.alpha == 0:  # task vectors would negate what they learn of the retain set
            raise ValueError(f"alpha: got {self.request.alpha} for {name}, which has no retain loss; want none")
        return replace(chosen, alpha=self.request.alpha)

    def updated(self) -> Encoded:
        """The forget sequences; where they are fewer than a batch, again and again until they fill one, because an
        update takes as many retain sequences as forget ones, and a few protect little."""
        encoded = self.encode("forget")
        return encoded.subset(torch.arange(max(len(encoded), self.request.batch_size)) % len(encoded))

    def encode(self, name: str) -> Encoded:
        questions = self.sets[name]
        return language.encode(self.tokenizer, questions.question, questions.answer, self.request.max_length)


def load(request: Request) -> Loaded:
    """Read and check everything, before anything is computed.

    Raises ValueError naming the file and line of an unreadable question, a question that is in two files, an answer
    that is too long, text for the pruner that cannot be read or is too short, an unknown method or pruner, an `alpha`
    for a method without a retain loss, a number that cannot be meant, a folder without a model, masks of another
    model, and an `out` that exists.
    """
    runs.require_new("out", request.out)
    if request.method.casefold() not in map(str.casefold, METHODS):
        raise ValueError(f"method: got {request.method!r}, want one of {sorted(METHODS)}")
    if request.pruner not in pruning.METHODS:
        raise ValueError(f"pruner: got {request.pruner!r}, want one of {sorted(pruning.METHODS)}")
    if request.sparsity is not None:
        pruning.Pattern.parse(request.sparsity)
    if not 0 <= request.keep < 1:
        raise ValueError(f"keep: got {request.keep}, want a share in [0, 1)")
    sets = {"forget": read_jsonl(request.forget), "retain": read_jsonl(request.retain)}
    refuse_overlap(sets["forget"], sets["retain"])
    if request.held_out is not None:
        sets["held_out"] = read_jsonl(request.held_out)
        for name in ("forget", "retain"):
            refuse_overlap(sets["held_out"], sets[name], ("held_out", name))
    with reading("model", request.model) as options:
        tokenizer = AutoTokenizer.from_pretrained(request.model, **options)
    model = weights(AutoModelForCausalLM, "model", request.model, torch.float32)
    stored = Path(request.model) / MASKS
    masks = Masks.load(stored) if stored.exists() else None
    if masks is not None:
        masks.require_for(model)
    loaded, encoded = Loaded(request, model, tokenizer, sets, masks, None), {}
    for name in sets:
        try:
            encoded[name] = loaded.encode(name)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    trained = encoded["forget"], encoded["retain"]
    check(model, *trained, loaded.method, None, request.lr, request.epochs, request.batch_size, request.seed, 0, 0)
    movable(model, Update(top=request.top))
    if masks is None and request.sparsity is None:
        loaded.method.setting(Update())
    if masks is None and request.sparsity is not None:
        loaded = replace(loaded, calibration=shown_to_pruner(request, tokenizer, encoded["retain"]))
    return loaded


def estimate(loaded: Loaded) -> dict[str, float]:
    """Before the run: {"updates", "gigabytes", "minutes"}, the last from one measured pass forward and backward.

    Memory is that of the weights, of gradient, two moments and two copies of what moves, and three times the
    activations' share of a batch; a run that needs more than the machine has available raises ValueError.
    """
    request, model = loaded.request, loaded.model
    forget, retain = loaded.updated(), loaded.encode("retain")
    rows = forget.subset(torch.arange(request.batch_size))
    moving = list(movable(model, Update(top=request.top)).values())
    weights, moved = (sum(p.numel() for p in parameters) for parameters in (model.parameters(), moving))
    config = model.config
    activations = (
        rows.ids.numel() * config.num_hidden_layers * (12 * config.hidden_size + 4 * config.intermediate_size)
    )
    needed, free = 4 * (weights + 5 * moved + 3 * activations) / 1e9, available() / 1e9
    if needed > free:
        raise ValueError(f"model: needs about {needed:.1f} GB, free are {free:.1f}; want a smaller batch_size or top")
    began = time.perf_counter()
    torch.autograd.grad(language.logprobs(model, rows).sum(), moving, allow_unused=True)
    seconds = time.perf_counter() - began
    updates = request.epochs * -(-len(forget) // request.batch_size)
    # Tokens that are passed forward only, a third of the measured work: the pruner's, three looks at all sets, and
    # one at retain after each epoch.
    forward = 0 if loaded.calibration is None else PASSES[request.pruner] * loaded.calibration.numel()
    forward += 3 * sum(loaded.encode(name).ids.numel() for name in loaded.sets)
    forward += request.epochs * retain.ids[:WATCHED].numel() if request.keep else 0
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


def shown_to_pruner(request: Request, tokenizer: PreTrainedTokenizerBase, retain: Encoded) -> torch.Tensor:
    """Windows of the text that was named, or the retain answers with their questions, one after another."""
    rows, width = CALIBRATION
    if request.calibration is None:
        return retain.packed(rows, width)
    return text.windows(tokenizer, text.documents(request.calibration), width, rows, request.seed)


def run(loaded: Loaded) -> dict:
    """Prune where asked, unlearn, write `out`, whole or not at all; returns the report that lies there as well.

    A checkpoint is kept beside `out` after each epoch (`<out>.partial`), so that an interrupted run goes on. Raises
    ValueError where the first epoch takes more from the retain answers than `keep` allows.
    """
    request, model, masks = loaded.request, loaded.model, loaded.masks
    before = measured(loaded)
    if loaded.calibration is not None:
        masks = pruning.prune(
            model, loaded.calibration, method=request.pruner, sparsity=request.sparsity, show="pruning"
        )
    pruned = None if loaded.calibration is None else measured(loaded)
    partial = request.out.with_name(request.out.name + ".partial")
    retain = loaded.encode("retain")
    watched = retain.subset(torch.arange(min(len(retain), WATCHED)))
    least = request.keep * probability(model, watched)
    done = unlearn(
        model,
        loaded.updated(),
        retain,
        loaded.method,
        lr=request.lr,
        update=Update(masks, top=request.top),
        epochs=request.epochs,
        batch_size=request.batch_size,
        seed=request.seed,
        lora=None if request.lora is None else LoraSettings(request.lora),
        after_epoch=(lambda _: probability(model, watched) >= least) if request.keep else None,
        back=request.keep > 0,
        checkpoint=partial,
        show="unlearning",
    )
    if done.epochs == 0:
        shutil.rmtree(partial)
        raise ValueError(
            f"lr: got {request.lr}, at which the first epoch leaves less than {request.keep:.0%} of the retain "
            "answers' probability; want a smaller lr, a larger alpha, or a smaller keep"
        )
    report = {
        "request": {name: str(value) for name, value in vars(request).items()},
        "before": before,
        "pruned": pruned,
        "after": measured(loaded),
        "sparsity": None if masks is None else 1 - masks.share(),
        "pruned weights all zero": None if masks is None else masks.holds(model),
        "epochs": done.epochs,
        "seconds": done.seconds,
        "environment": runs.environment(),
    }

    def write(folder: Path) -> None:
        model.save_pretrained(folder, safe_serialization=True)
        loaded.tokenizer.save_pretrained(folder)
        if masks is not None:
            masks.save(folder / MASKS)
        (folder / REPORT).write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")

    runs.write_folder(request.out, write)
    shutil.rmtree(partial)
    return report


def measured(loaded: Loaded) -> dict:
    """Mean answer probabilities of all sets, and the model's own answers to the first questions of each."""
    found = {"answers": {}}
    for name, questions in loaded.sets.items():
        found[name] = probability(loaded.model, loaded.encode(name))
        asked = questions.question[:SHOWN]
        found["answers"][name] = dict(zip(asked, generate(loaded.model, loaded.tokenizer, asked, 48), strict=True))
    return found
