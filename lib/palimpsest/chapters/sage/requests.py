"""The requests of the SAGE experiment, and what plain decoding and a drafter make of one.

A request is a picture of the test split and a prompt for a long description. A seed draws its pictures. Settings are
tuned on the first thousand pictures; what the claims are judged by comes from the rest.
"""

from functools import cache

import torch
from transformers import PreTrainedModel

from palimpsest.data import fashion_mnist
from palimpsest.data.splits import Split
from palimpsest.decoding.distributions import ranked
from palimpsest.training import seeds

TUNING_PICTURES = 1000
CANDIDATES = 10
"""Ranks that `held` tells apart and trees are fitted to: the k of every policy."""


@cache  # every arm asks about the same ones, and the test split takes a while to read
def pictures(group: str, seed: int, count: int) -> Split:
    """The `count` pictures of the test split that a seed draws; `group`: "tuning" or "evaluation"."""
    test = fashion_mnist.load().test
    start, end = (0, TUNING_PICTURES) if group == "tuning" else (TUNING_PICTURES, len(test))
    generator = seeds.generator(seed, "pictures")
    return test.subset(start + torch.randperm(end - start, generator=generator)[:count])


def greedy(model: PreTrainedModel, one: dict[str, torch.Tensor], most: int, **options) -> list[int]:
    """The new tokens of one request, at most `most`, by transformers' own greedy decoding with these `options`."""
    one = {key: value.to(model.device) for key, value in one.items()}
    mask = torch.ones_like(one["input_ids"])
    out = model.generate(**one, attention_mask=mask, do_sample=False, max_new_tokens=most, **options)
    return out[0, one["input_ids"].shape[1] :].tolist()


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
