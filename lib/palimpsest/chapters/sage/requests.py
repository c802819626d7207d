"""The requests of the SAGE experiment, the shipped pairs that answer them, and plain decoding's answers.

A request is a picture of the test split and a prompt for a long description; for the text pair the picture's facts
in words. A seed draws its pictures. Settings are tuned on the first thousand pictures, verdicts come from the rest.
"""

import json
from dataclasses import dataclass
from functools import cache

import torch
from transformers import PreTrainedModel

from palimpsest import runs
from palimpsest.chapters.shared.profiles import choose
from palimpsest.data import captions, fashion_mnist, manifest, pairs
from palimpsest.data.caption_words import PROMPTS
from palimpsest.data.pairs import Processor
from palimpsest.data.splits import Split
from palimpsest.decoding import Decoder, adapt
from palimpsest.decoding.distributions import ranked
from palimpsest.nets import vision_language

TUNING_PICTURES = 1000
CANDIDATES = 10
"""Ranks that `followed` tells apart and trees are fitted to: the k of every policy."""
PAIRS = {
    "vision": ("target", "drafter"),
    "distilled": ("target", "distilled-drafter"),
    "text": ("text-target", "text-drafter"),
}


@dataclass(frozen=True)
class Setting:
    """`requests` a seed; `most`: new tokens a request."""

    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    requests: int
    most: int


PROFILES = {
    "smoke": Setting((0, 1), (1000,), 1, 12),
    "ci": Setting((60, 61, 62, 63, 64), (1000, 1001), 3, 192),
}


def inputs(profile: str, group: str, seed: int, target: str) -> list[dict[str, torch.Tensor]]:
    """What `decoding.generate` takes, one mapping a request to the model `target`; `group`: "tuning" or "verdict"."""
    chosen = pictures(group, seed, choose(profile, PROFILES).requests)
    levels, found = captions.levels(chosen.images).tolist(), []
    for i, (label, row) in enumerate(zip(chosen.labels.tolist(), levels, strict=True)):
        prompt = PROMPTS["detail"][i % len(PROMPTS["detail"])]
        if target in vision_language.VISION:
            found.append(processor()(prompt, chosen.images[i : i + 1]))
        else:
            found.append(processor()(f"{prompt} {captions.facts(label, row)}"))
    return found


@cache  # every arm asks about the same ones, and the test split takes a while to read
def pictures(group: str, seed: int, count: int) -> Split:
    """The `count` pictures of the test split that a seed draws; `group` as in `inputs`."""
    test = fashion_mnist.load().test
    start, end = (0, TUNING_PICTURES) if group == "tuning" else (TUNING_PICTURES, len(test))
    generator = torch.Generator().manual_seed(seed)
    return test.subset(start + torch.randperm(end - start, generator=generator)[:count])


@cache
def processor() -> Processor:
    return pairs.processor()


@cache
def decoder(name: str, dtype: torch.dtype = torch.float32) -> Decoder:
    """The shipped model `name`, ready for tree decoding."""
    return adapt(pairs.load(name).to(dtype))


def plain(profile: str, group: str, seed: int, target: str) -> list[list[int]]:
    """The new tokens of each request by transformers' own greedy decoding."""
    model = decoder(target).model
    most = choose(profile, PROFILES).most
    return [greedy(model, one, most) for one in inputs(profile, group, seed, target)]


def greedy(model: PreTrainedModel, one: dict[str, torch.Tensor], most: int, **options) -> list[int]:
    """The new tokens of one request, at most `most`, by transformers' own greedy decoding with these `options`."""
    one = {key: value.to(model.device) for key, value in one.items()}
    mask = torch.ones_like(one["input_ids"])
    out = model.generate(**one, attention_mask=mask, do_sample=False, max_new_tokens=most, **options)
    return out[0, one["input_ids"].shape[1] :].tolist()


def followed(profile: str, group: str, seed: int, pair: str) -> list[dict]:
    """What the drafter holds of each of the target's tokens, one row a token: see `held`."""
    target, drafter = PAIRS[pair]
    model = decoder(drafter).model
    asked = inputs(profile, group, seed, target)
    answers = runs.cached(plain, {"profile": profile, "group": group, "seed": seed, "target": target})
    return [
        {"request": i, **row}
        for i, (one, answer) in enumerate(zip(asked, answers, strict=True))
        for row in held(model, one, answer)
    ]


def held(drafter: PreTrainedModel, one: dict[str, torch.Tensor], answer: list[int]) -> list[dict]:
    """What the drafter holds of each token of a request's `answer`: its "place" in it, its "rank" among the ten
    likeliest (10 if it is not there), the drafter's confidence "alpha" there and the likeliest's probability "first",
    of ten."""
    ids = torch.cat([one["input_ids"], torch.tensor([answer])], 1)
    given = {key: value.to(drafter.device) for key, value in (one | {"input_ids": ids}).items()}
    with torch.inference_mode():
        logits = drafter(**given, logits_to_keep=len(answer) + 1).logits[0, :-1]
    rows = []
    for place, (distribution, token) in enumerate(zip(ranked(logits, CANDIDATES), answer, strict=True)):
        known = distribution.tokens
        rows.append(
            {
                "place": place,
                "rank": known.index(token) if token in known else len(known),
                "alpha": distribution.alpha,
                "first": distribution.probs[0],
            }
        )
    return rows


def quality() -> dict[str, float]:
    """What was measured of the shipped vision-language pair, see `pair_quality.quality`; "commonest": the mean over
    attributes of what a constant answer would reach; "distilled agrees": the other drafter's "drafter agrees"."""
    folders = "vision_language", "vision_language/distilled"
    measured, distilled = (json.loads(manifest.verify(f"{name}/quality.json").read_text()) for name in folders)
    commonest = [measured[f"commonest level: {name}"] for name in captions.ATTRIBUTES]
    return measured | {
        "commonest": sum(commonest) / len(commonest),
        "distilled agrees": distilled["drafter agrees"],
    }
