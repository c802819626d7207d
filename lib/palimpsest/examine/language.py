"""Causal language models under `palimpsest unlearn` and `palimpsest decode`."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerBase

from palimpsest import decoding
from palimpsest.data import adapters
from palimpsest.data.questions import Questions
from palimpsest.decoding.drafters import PADDING
from palimpsest.decoding.drop_in import WITHOUT_MODEL
from palimpsest.decoding.folders import model_of, sees
from palimpsest.nets import language
from palimpsest.nets.tokens import BARE
from palimpsest.pruning import Pattern
from palimpsest.pruning.decoder import decoder_layers
from palimpsest.unlearning.language import drop_in
from palimpsest.unlearning.language.evaluation import generate
from palimpsest.unlearning.language.given import MASKS, Given, read, require_measurable, require_prunable
from palimpsest.unlearning.language.request import OFFERED, SPARSITY, Request, encoded_sets, fitted, questions

from .findings import Findings, Use, attempt, counted

RANK = 8
CHANGES = ("final_logit_softcapping", "logits_soft_cap", "logit_scale", "logits_scaling", "lm_head_multiplier")
"""Settings of transformers' classes that change logits after the output embedding."""


def findings(name: str, config: PretrainedConfig, forget: Path, retain: Path) -> Findings:
    """Of the model `name` of this configuration, tried with the questions of two files. Weights that do not fit into
    memory as float32 are not read: what they would show is left out. Raises ValueError for files or a model that
    cannot be read."""
    request = Request(name, forget, retain, out=Path("unlearned"), sparsity="dense")
    sets, tokenizer = questions(request), adapters.tokenizer_of("model", name)
    skeleton, why = attempt(_skeleton, config)
    if skeleton is not None:
        _, why = attempt(drop_in.require_available, 4 * _numel(skeleton) / 1e9, "a smaller model")
    if why is None:
        given = read(name)
        facts = _size(given.model) | _text(tokenizer, given.model) | _inside(given.model)
        facts["dtype"] = str(given.dtype).removeprefix("torch.")
        uses = [_measure(given, sets), _prune(given), *_unlearn(request, sets, given)]
    else:
        given, facts = None, {} if skeleton is None else _size(skeleton) | _text(tokenizer, skeleton)
        uses = [Use(use, why) for use in ("measure", "prune", "unlearn", "unlearn with adapters")]
    if sees(config):  # `decode` reads another class then
        target, why = attempt(model_of, "target", name)
        facts |= {} if target is None else _size(target)
    else:
        target = skeleton if given is None else given.model
    return Findings(name, facts, uses + _decode(target, why, tokenizer))


def _skeleton(config: PretrainedConfig) -> nn.Module:
    """The model without weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def _numel(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _size(model: nn.Module) -> dict:
    return {"class": type(model).__name__, "weights": _numel(model), "context": _context(model)}


def _context(model: nn.Module) -> str:
    most = model.config.get_text_config()
    return str(getattr(most, "max_position_embeddings", None) or "no limit named")


def _text(tokenizer: PreTrainedTokenizerBase, model: nn.Module) -> dict:
    rows, end = model.get_input_embeddings().num_embeddings, attempt(language.answer_end, tokenizer)[0]
    chat = "its chat template" if tokenizer.chat_template else "no chat template: Question: …, Answer: …"
    if "strftime_now" in str(tokenizer.chat_template):
        chat += ", which writes the date of the day"
    return {
        "vocabulary": f"{rows} rows for {len(tokenizer)} tokens; padding {tokenizer.pad_token!r}",
        "template": chat,
        "answer ends with": "nothing" if end is None else repr(tokenizer.convert_ids_to_tokens(end)),
    }


def _inside(model: nn.Module) -> dict:
    """Logits, prunable share, experts."""
    _, why = attempt(language.output_embedding, model)
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    named = [f"{key} {getattr(config, key)}" for key in CHANGES if getattr(config, key, None) not in (None, 1)]
    named += ["a bias"] if getattr(head, "bias", None) is not None else []
    changed = f"changed by {', '.join(named)}" if named else "changed, by no setting that is known"
    facts = {"logits": "hidden states times the output embedding" if why is None else changed}
    layers, _ = attempt(decoder_layers, model)
    if layers is not None:
        every = {p: p.numel() for layer in layers for p in layer.module.parameters()}
        linear = {part.weight: part.weight.numel() for layer in layers for part in layer.linears.values()}
        experts = {
            p.shape[0]
            for layer in layers
            for at, p in layer.module.named_parameters()
            if "experts" in at and p.ndim == 3
        }
        facts |= {
            "linear maps": f"{sum(linear.values()) / sum(every.values()):.1%} of the weights in {len(layers)} layers",
            "experts": f"{max(experts)} to a layer, in one parameter" if experts else "none",
        }
    return facts


def _measure(given: Given, sets: dict[str, Questions]) -> Use:
    def answered():
        require_measurable(given)
        return generate(given.model, given.tokenizer, sets["forget"].question[:1], 2)

    _, why = attempt(answered)
    return Use("measure", why, "probabilities of answers, answers of its own, and what is computed from them")


def _prune(given: Given) -> Use:
    if given.masks is not None:
        return Use("prune", f"it is pruned already: {1 - given.masks.share():.0%} by {MASKS}")
    _, why = attempt(require_prunable, given, Pattern.parse(SPARSITY), None)
    return Use("prune", why, "by Wanda, SparseGPT or magnitude")


def _unlearn(request: Request, sets: dict[str, Questions], given: Given) -> list[Use]:
    """Dense, sparse, and with adapters; each method on its own."""
    pruned = given.masks is not None
    dense = {"sparsity": None if pruned else "dense"}
    settings = {"unlearn": dense}
    if not pruned:
        settings["unlearn, pruned on the way"] = {"sparsity": SPARSITY}
    settings["unlearn with adapters"] = dense | {"lora": RANK}
    encoded, why = attempt(encoded_sets, request, sets, given)
    if encoded is None:
        return [Use(use, why) for use in settings]
    return [_methods(use, replace(request, **changed), sets, given, encoded) for use, changed in settings.items()]


def _methods(use: str, request: Request, sets, given: Given, encoded) -> Use:
    fits, refused = {}, {}
    for method in OFFERED:
        loaded, why = attempt(fitted, replace(request, method=method), sets, given, encoded)
        if loaded is None:
            refused[method] = why
        else:
            fits[method] = loaded
    if not fits:
        return Use(use, next(iter(refused.values())))
    cost, why = attempt(drop_in.estimate, fits.get("SAU") or fits["NPO"])
    if cost is None:
        return Use(use, why)
    detail = "{updates} updates, about {gigabytes:.2f} GB and {minutes:.2f} minutes".format(**cost)
    return Use(use, None, f"{detail} for {len(sets['forget'])} questions; {counted(refused, OFFERED)}")


def _decode(model: nn.Module | None, why: str | None, tokenizer: PreTrainedTokenizerBase) -> list[Use]:
    if model is None:
        return [Use("decode as target", why), Use("decode as drafter", why)]
    decoder, why = attempt(decoding.adapt, model)
    if decoder is not None and model.device.type != "meta":
        prompt = language.prompt_ids(tokenizer, ["Why?"], BARE)[0]
        settings = {"policy": "chain", "max_new_tokens": 3, "stop_tokens": ()}
        _, why = attempt(lambda: decoding.generate(decoder, decoding.adapt(model), prompt, **settings))
    if why is not None:
        return [Use("decode as target", why), Use("decode as drafter", why)]
    near = f"for targets of {decoder.vocabulary} tokens, give or take {PADDING} of padding"
    alone = f"with such a drafter, or with {' or '.join(WITHOUT_MODEL)}"
    window = "" if decoder.window is None else f", in texts of at most {decoder.window} tokens, its window"
    return [Use("decode as target", None, alone + window), Use("decode as drafter", None, near + window)]
