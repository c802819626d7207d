"""What a reader asks of a model of their own: read and checked whole, before anything is computed."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from palimpsest import pruning, runs
from palimpsest.data import text
from palimpsest.data.questions import Questions, read_jsonl, refuse_overlap
from palimpsest.nets import language
from palimpsest.nets.language import Encoded
from palimpsest.pruning import Masks, Pattern
from palimpsest.unlearning.language import METHODS, RMU, SAU, Objective, Update
from palimpsest.unlearning.language.checks import check
from palimpsest.unlearning.language.given import (
    MASKS,
    Given,
    read,
    require_adaptable,
    require_measurable,
    require_prunable,
)
from palimpsest.unlearning.language.update import movable

OFFERED = [name for name, method in METHODS.items() if not method.needs_idk]
"""The methods: those that no file of answers to prefer is needed for."""
SHOWN = 6
"""Questions of each set whose answers before and after are put into the report: the first."""
WRITTEN = 48
"""Tokens of such an answer, at most."""
LR, HALVINGS = 1e-5, 6
"""The step size where none is asked for, and how often it may be halved: NPO adds up the tokens of an answer, so what
a step costs grows with their number."""
SPARSITY, PRUNER = 0.5, "wanda"
CALIBRATION = (64, 128)
"""Rows and tokens that a pruner sees."""


@dataclass(frozen=True)
class Request:
    """What is asked for. `model` is a folder with safetensors, of a LoRA adapter too (it is merged into its base), or
    a hub identifier where PALIMPSEST_ALLOW_HUB is 1.

    `forget`, `retain`, `held_out`: files as `data.questions.read_jsonl` reads them; the last is asked before and
    after, and never trained on. `method` None is SAU, and NPO for a model that stays dense or for adapters.
    `sparsity` is a share, "N:M", "dense" or None, which is 0.5; a model folder that holds `masks.safetensors` is
    taken as pruned by these, and `sparsity`, `pruner` and `calibration` must be None then. `pruner` None is Wanda.
    `calibration`: running text that the pruner sees, as `data.text.documents` reads it; None gives it the retain
    questions with their answers.
    `alpha`: the weight of the retain loss; None takes the method's own. `keep`: the model handed over has at
    least this share of the retain answers' mean probability that pruning left; with 0 the last epoch's is. `lr` None
    is `LR`, halved as often as no epoch keeps enough. `top` moves the last layers only, `moving` the parameters whose
    names this regular expression matches; `lora` trains adapters of that rank. `layer`, for RMU alone: what it
    steers, a layer's number, from 0, or the name of a module.
    """

    model: str
    forget: Path
    retain: Path
    out: Path
    held_out: Path | None = None
    method: str | None = None
    sparsity: float | str | None = None
    pruner: str | None = None
    calibration: Path | None = None
    lr: float | None = None
    alpha: float | None = None
    epochs: int = 10
    keep: float = 0.95
    batch_size: int = 8
    max_length: int = 512
    top: int | None = None
    moving: str | None = None
    layer: int | str | None = None
    lora: int | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Loaded:
    """A request with its model and data, `sets` by name: forget, retain and, if there is any, held_out; `encoded`:
    the same as tokens (`encoded_sets`).

    `calibration`, int64 tokens [rows, width], is None where nothing is pruned."""

    request: Request
    given: Given
    sets: dict[str, Questions]
    encoded: dict[str, Encoded]
    calibration: torch.Tensor | None = None

    @property
    def model(self) -> torch.nn.Module:
        return self.given.model

    @property
    def masks(self) -> Masks | None:
        return self.given.masks

    @property
    def method(self) -> Objective:
        plain = self.request.sparsity == "dense" or self.request.lora is not None
        name = self.request.method or ("NPO" if plain else "SAU")
        chosen = next(m for known, m in METHODS.items() if known.casefold() == name.casefold())
        if self.request.layer is not None:
            if not isinstance(chosen, RMU):
                raise ValueError(f"layer: got {self.request.layer} for {name}, which steers none; want none")
            chosen = replace(chosen, layer=self.request.layer)
        if self.request.alpha is None:
            return chosen
        if chosen.alpha == 0:  # task vectors would negate what they learn of the retain set
            raise ValueError(f"alpha: got {self.request.alpha} for {name}, which has no retain loss; want none")
        return replace(chosen, alpha=self.request.alpha)

    @property
    def update(self) -> Update:
        """Which weights move."""
        return Update(self.masks, top=self.request.top, moving=self.request.moving)

    def updated(self) -> Encoded:
        """The forget sequences; where they are fewer than a batch, again and again until they fill one, because an
        update takes as many retain sequences as forget ones, and a few protect little."""
        encoded = self.encoded["forget"]
        return encoded.subset(torch.arange(max(len(encoded), self.request.batch_size)) % len(encoded))


def load(request: Request) -> Loaded:
    """Read and check everything, before anything is computed.

    Raises ValueError for an `out` that exists or cannot be made, and as `questions`, `given.read`, `encoded_sets` and
    `fitted`.
    """
    runs.require_new("out", request.out)
    _require_makeable(request.out)
    _require_meant(request)
    sets, given = questions(request), read(request.model)
    return fitted(request, sets, given, encoded_sets(request, sets, given))


def questions(request: Request) -> dict[str, Questions]:
    """The sets of the request, by name. Raises ValueError naming the file and line of an unreadable question, and a
    question that is in two files."""
    sets = {"forget": read_jsonl(request.forget), "retain": read_jsonl(request.retain)}
    refuse_overlap(sets["forget"], sets["retain"])
    if request.held_out is not None:
        sets["held_out"] = read_jsonl(request.held_out)
        for name in ("forget", "retain"):
            refuse_overlap(sets["held_out"], sets[name], ("held_out", name))
    return sets


def encoded_sets(request: Request, sets: dict[str, Questions], given: Given) -> dict[str, Encoded]:
    """The sets as the model reads them. Raises ValueError for a model that cannot be measured
    (`given.require_measurable`), an answer that is too long, and a context too short for the answers."""
    require_measurable(given)
    encoded, context = {}, language.context(given.model)
    for name, asked in sets.items():
        most = min(request.max_length, context)
        try:
            encoded[name] = language.encode(given.tokenizer, asked.question, asked.answer, most)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        longest = max(map(len, language.prompt_ids(given.tokenizer, asked.question[:SHOWN])))
        if longest > context - WRITTEN:
            raise ValueError(
                f"{name}: got a question of {longest} tokens, want at most {context - WRITTEN}, for an answer of "
                f"{WRITTEN} to fit into the model's context"
            )
    return encoded


def fitted(request: Request, sets: dict[str, Questions], given: Given, encoded: dict[str, Encoded]) -> Loaded:
    """The request with its model and data, where they suit each other.

    Raises ValueError for a model that cannot be pruned or adapted, where that is asked for
    (`unlearning.language.given`), text for the pruner that cannot be read or is too short, an `alpha` for a method
    without a retain loss, a `layer` for one that steers none, adapters with SAU on a pruned model, SAU on a model
    that stays dense, names that no parameter has, and RMU where no parameter that moves has a part in what it steers.
    """
    pattern = None if given.masks is not None else _pattern(request)
    if pattern is not None:
        require_prunable(given, pattern, request.pruner)
    loaded = Loaded(request, given, sets, encoded)
    trained, lr = (encoded["forget"], encoded["retain"]), LR if request.lr is None else request.lr
    check(given.model, *trained, loaded.method, None, lr, request.epochs, request.batch_size, request.seed, 0, 0)
    moving = movable(given.model, loaded.update)
    if isinstance(loaded.method, RMU):
        loaded.method.require_reach(given.model, moving)
    if given.masks is None and pattern is None:
        loaded.method.setting(Update())
    elif request.lora is not None and isinstance(loaded.method, SAU):
        raise ValueError(
            f"lora: got {request.lora} with SAU, which sizes each weight's own step; want another method"
        )
    if request.lora is not None:
        require_adaptable(given, request.lora)
        movable(given.model, replace(loaded.update, trainable="linear"))
    return loaded if pattern is None else replace(loaded, calibration=shown_to_pruner(loaded))


def _require_meant(request: Request) -> None:
    """ValueError for an unknown method or pruner, an option that nothing would read, and a share that is none."""
    if request.method is not None and request.method.casefold() not in map(str.casefold, OFFERED):
        raise ValueError(f"method: got {request.method!r}, want one of {sorted(OFFERED)}")
    if request.pruner not in (None, *pruning.METHODS):
        raise ValueError(f"pruner: got {request.pruner!r}, want one of {sorted(pruning.METHODS)}")
    stored = Path(request.model) / MASKS
    if stored.exists():
        _require_unread(request, ("sparsity", "pruner", "calibration"), f"{stored} says what is pruned")
    elif request.sparsity == "dense":
        _require_unread(request, ("pruner", "calibration"), "a dense model is not pruned")
    else:
        _pattern(request)
        if pruning.METHODS[request.pruner or PRUNER].statistic is None:
            _require_unread(request, ("calibration",), f"{request.pruner} looks at weights alone")
    if not 0 <= request.keep < 1:
        raise ValueError(f"keep: got {request.keep}, want a share in [0, 1)")


def _require_unread(request: Request, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if getattr(request, name) is not None:
            raise ValueError(f"{name}: got {getattr(request, name)}, but {why}; want none")


def _pattern(request: Request) -> Pattern | None:
    """To what a folder without masks is pruned."""
    share = SPARSITY if request.sparsity is None else request.sparsity
    return None if share == "dense" else Pattern.parse(share)


def shown_to_pruner(loaded: Loaded) -> torch.Tensor:
    """Windows of the text that was named, or the retain answers with their questions, one after another."""
    rows, width = CALIBRATION[0], min(CALIBRATION[1], language.context(loaded.model))
    request = loaded.request
    if request.calibration is None:
        return loaded.encoded["retain"].packed(rows, width)
    return text.windows(loaded.given.tokenizer, text.documents(request.calibration), width, rows, request.seed)


def _require_makeable(out: Path) -> None:
    """ValueError where no folder `out` can be made."""
    parent = next(path for path in out.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"out: {out} cannot be made in {parent}, want the name of a new folder in one to write in")
