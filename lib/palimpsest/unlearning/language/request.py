"""What a reader asks of a model of their own: read and checked whole, before anything is computed."""

import os
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from palimpsest import pruning, runs
from palimpsest.data import text
from palimpsest.data.folders import reading, weights
from palimpsest.data.questions import Questions, read_jsonl, refuse_overlap
from palimpsest.nets import language
from palimpsest.nets.language import Encoded
from palimpsest.pruning import Masks
from palimpsest.pruning.decoder import decoder_layers, require_linear
from palimpsest.unlearning.language import METHODS, SAU, LoraSettings, Objective, Update
from palimpsest.unlearning.language.checks import check
from palimpsest.unlearning.language.update import movable

MASKS = "masks.safetensors"
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
    """What is asked for. `model` is a folder with safetensors, or a hub identifier where PALIMPSEST_ALLOW_HUB is 1.

    `forget`, `retain`, `held_out`: files as `data.questions.read_jsonl` reads them; the last is asked before and
    after, and never trained on. `method` None is SAU, and NPO for a model that stays dense or for adapters.
    `sparsity` is a share, "N:M", "dense" or None, which is 0.5; a model folder that holds `masks.safetensors` is
    taken as pruned by these, and `sparsity`, `pruner` and `calibration` must be None then. `pruner` None is Wanda.
    `calibration`: running text that the pruner sees, as `data.text.documents` reads it; None gives it the retain
    questions with their answers.
    `alpha`: the weight of the retain loss; None takes the method's own. `keep`: the model handed over has at
    least this share of the retain answers' mean probability that pruning left; with 0 the last epoch's is. `lr` None
    is `LR`, halved as often as no epoch keeps enough. `top` moves the last layers only; `lora`
    trains adapters of that rank.
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
    lora: int | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Loaded:
    """A request with its model, masks and data, `sets` by name: forget, retain and, if there is any, held_out.

    `masks` is None where the folder has none; `calibration`, int64 tokens [rows, width], where nothing is pruned;
    `dtype` is that of the folder's weights, in which the result is written."""

    request: Request
    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    sets: dict[str, Questions]
    masks: Masks | None
    calibration: torch.Tensor | None
    dtype: torch.dtype

    @property
    def method(self) -> Objective:
        plain = self.request.sparsity == "dense" or self.request.lora is not None
        name = self.request.method or ("NPO" if plain else "SAU")
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
        most = min(self.request.max_length, language.context(self.model))
        return language.encode(self.tokenizer, questions.question, questions.answer, most)


def load(request: Request) -> Loaded:
    """Read and check everything, before anything is computed.

    Raises ValueError naming the file and line of an unreadable question, a question that is in two files, an answer
    that is too long, text for the pruner that cannot be read or is too short, an unknown method or pruner, an `alpha`
    for a method without a retain loss, a number that cannot be meant, a folder without a model, masks of another
    model, options of a pruner where the folder has masks, a sparsity that does not fit its matrices, adapters with
    SAU on a pruned model, a context too short for the answers, and an `out` that exists or cannot be made.
    """
    runs.require_new("out", request.out)
    _require_makeable(request.out)
    methods = {name for name, method in METHODS.items() if not method.needs_idk}  # no file has answers to prefer
    if request.method is not None and request.method.casefold() not in map(str.casefold, methods):
        raise ValueError(f"method: got {request.method!r}, want one of {sorted(methods)}")
    if request.pruner not in (None, *pruning.METHODS):
        raise ValueError(f"pruner: got {request.pruner!r}, want one of {sorted(pruning.METHODS)}")
    stored = Path(request.model) / MASKS
    for name in ("sparsity", "pruner", "calibration") if stored.exists() else ():
        if getattr(request, name) is not None:
            raise ValueError(f"{name}: got {getattr(request, name)}, but {stored} says what is pruned; want none")
    pattern = None
    if not stored.exists() and request.sparsity != "dense":
        pattern = pruning.Pattern.parse(SPARSITY if request.sparsity is None else request.sparsity)
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
        config = AutoConfig.from_pretrained(request.model, **options)
    model = weights(AutoModelForCausalLM, "model", request.model, torch.float32)
    masks = Masks.load(stored) if stored.exists() else None
    if masks is not None:
        masks.require_for(model)
    if pattern is not None:
        require_linear(model)
        for name, linear in ((n, part) for layer in decoder_layers(model) for n, part in layer.linears.items()):
            try:
                pattern.require_fits(linear.weight.shape)
                if request.pruner in (None, "wanda"):
                    pattern.count(pattern.group or linear.weight.shape[1])
            except ValueError as error:
                raise ValueError(f"{error} of {name}") from error
    stated = config.dtype or config.get_text_config().dtype
    dtype = stated if stated in (torch.bfloat16, torch.float16) else torch.float32
    loaded, encoded = Loaded(request, model, tokenizer, sets, masks, None, dtype), {}
    for name in sets:
        try:
            encoded[name] = loaded.encode(name)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        longest = max(map(len, language.prompt_ids(tokenizer, sets[name].question[:SHOWN])))
        if longest + WRITTEN > language.context(model):
            raise ValueError(
                f"{name}: got a question of {longest} tokens, want at most {language.context(model) - WRITTEN}, for "
                f"an answer of {WRITTEN} to fit into the model's context"
            )
    trained, lr = (encoded["forget"], encoded["retain"]), LR if request.lr is None else request.lr
    check(model, *trained, loaded.method, None, lr, request.epochs, request.batch_size, request.seed, 0, 0)
    movable(model, Update(top=request.top))
    language.output_embedding(model)
    if masks is None and pattern is None:
        loaded.method.setting(Update())
    elif request.lora is not None and isinstance(loaded.method, SAU):
        raise ValueError(
            f"lora: got {request.lora} with SAU, which sizes each weight's own step; want another method"
        )
    if request.lora is not None:
        LoraSettings(request.lora)
        if find_spec("peft") is None:
            raise ValueError("lora: needs the package peft: pip install peft")
        require_linear(model)
    if pattern is not None:
        loaded = replace(loaded, calibration=shown_to_pruner(loaded, encoded["retain"]))
    return loaded


def shown_to_pruner(loaded: Loaded, retain: Encoded) -> torch.Tensor:
    """Windows of the text that was named, or the retain answers with their questions, one after another."""
    rows, width = CALIBRATION[0], min(CALIBRATION[1], language.context(loaded.model))
    request = loaded.request
    if request.calibration is None:
        return retain.packed(rows, width)
    return text.windows(loaded.tokenizer, text.documents(request.calibration), width, rows, request.seed)


def _require_makeable(out: Path) -> None:
    """ValueError where no folder `out` can be made."""
    parent = next(path for path in out.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"out: {out} cannot be made in {parent}, want the name of a new folder in one to write in")
