"""The requests of the SAGE experiment, and what transformers itself says to one.

A request is a picture of the test split and a prompt for a long description. Settings are tuned on the first thousand
pictures; what the claims are judged by comes from the rest, and no picture belongs to two seeds.
"""

from functools import cache

import torch
from transformers import PreTrainedModel

from palimpsest.data import fashion_mnist
from palimpsest.data.splits import Split
from palimpsest.training import seeds

TUNING_PICTURES = 1000
CANDIDATES = 10
"""The k of every policy here: ranks that are told apart and that trees are fitted to."""
DRAW = 260
"""Of the order in which the seeds take their pictures."""
RETIRED = ((60, 61, 62, 63, 64), 6)
"""Seeds whose first so many pictures earlier verdicts and benchmarks were drawn from: no verdict asks about them
again."""


def retired(count: int) -> set[int]:
    """Of the `count` pictures behind those for tuning, the numbers of the ones that were asked about before."""
    old, each = RETIRED
    drawn = (torch.randperm(count, generator=seeds.generator(seed, "pictures"))[:each] for seed in old)
    return set(torch.cat(list(drawn)).tolist())


@cache  # every arm asks about the same ones, and the test split takes a while to read
def pictures(group: str, place: int, count: int) -> Split:
    """The `count` pictures of the test split of a group's seed number `place`; `group`: "tuning" or "evaluation"."""
    test = fashion_mnist.load().test
    start, end = (0, TUNING_PICTURES) if group == "tuning" else (TUNING_PICTURES, len(test))
    order = torch.randperm(end - start, generator=seeds.generator(DRAW, "pictures", group)).tolist()
    if group == "evaluation":
        seen = retired(end - start)
        order = [number for number in order if number not in seen]
    if (place + 1) * count > len(order):
        raise ValueError(f"place, count: got {place} and {count}, want at most {len(order)} pictures in all")
    return test.subset(start + torch.tensor(order[place * count : (place + 1) * count]))


def greedy(model: PreTrainedModel, one: dict[str, torch.Tensor], most: int, **options) -> list[int]:
    """The new tokens of one request, at most `most`, by transformers' own greedy decoding with these `options`."""
    one = {key: value.to(model.device) for key, value in one.items()}
    mask = torch.ones_like(one["input_ids"])
    out = model.generate(**one, attention_mask=mask, do_sample=False, max_new_tokens=most, **options)
    return out[0, one["input_ids"].shape[1] :].tolist()
