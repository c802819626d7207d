"""Entropy adaptive decoding: a small model writes, and a large one where the small one is unsure. Lossy."""

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch

from palimpsest.checks import require_count, require_number

from .models import Decoder, adapt
from .verify import Chooser


@dataclass(frozen=True)
class Switched:
    """A text and what it cost. by: of each token whether the large model wrote it. forwards, rows: the calls of the
    small and of the large model behind their prefills, and the rows that these read."""

    tokens: list[int]
    by: list[bool]
    forwards: tuple[int, int]
    rows: tuple[int, int]


def entropy_adaptive(
    small, large, inputs, *, max_new_tokens: int, threshold: float, window: int = 5, least: int = 1, stop_tokens=()
) -> Switched:
    """Greedy decoding by one of two models at a time.

    Stated by entropy adaptive decoding (Simonds, arXiv 2502.06833), as a review of it tells: the entropy of the
    model's own logits in bits, its mean over the last `window` tokens (theirs: 5); above the `threshold` the large
    model writes the next token, else the small one; neither hands over before it has written `least` tokens. The
    text is neither model's own. Our reading: the small model begins, the window reaches over a change of hands, and a
    model that takes over reads what it has missed in one forward.

    small, large: causal models of one vocabulary, or `Decoder`s; inputs: as `generate` takes them. ValueError for
    numbers out of range, and vocabularies of different sizes.
    """
    models = [adapt(small), adapt(large)]
    sizes = [model.vocabulary for model in models]
    if sizes[0] != sizes[1]:
        raise ValueError(f"small, large: got {sizes[0]} and {sizes[1]} tokens, want one vocabulary")
    for name, value in (("max_new_tokens", max_new_tokens), ("window", window), ("least", least)):
        require_count(name, value)
    require_number("threshold", threshold, least=0)
    with torch.inference_mode():
        return _decode(models, inputs, max_new_tokens, threshold, deque(maxlen=window), least, frozenset(stop_tokens))


def _decode(models: list[Decoder], inputs, most, threshold, recent, least, stop_tokens) -> Switched:
    logits = [model.prefill(inputs)[None] for model in models]
    for name, model in zip(("small", "large"), models, strict=True):
        if model.room() is not None and model.room() < most:
            raise ValueError(
                f"max_new_tokens: got {most}, want at most {model.room()}, what the {name} model has left"
            )
    tokens: list[int] = []
    by: list[bool] = []
    read, forwards, rows = [0, 0], [0, 0], [0, 0]
    active, since = 0, 0
    greedy = Chooser(0.0, 0)
    while len(tokens) < most and not (tokens and tokens[-1] in stop_tokens):
        own = models[active]
        if fresh := tokens[read[active] :]:
            count = len(fresh)
            logits[active] = own.extend(fresh, range(count), np.tri(count, dtype=bool))[-1:]
            own.commit(range(count))
            read[active] += count
            forwards[active] += 1
            rows[active] += count
        tokens.append(greedy(logits[active], len(tokens))(0, 0))
        by.append(bool(active))
        recent.append(entropy_in_bits(logits[active]))
        since += 1
        wanted = int(sum(recent) / len(recent) > threshold)
        if wanted != active and since >= least:
            active, since = wanted, 0
    return Switched(tokens, by, tuple(forwards), tuple(rows))


def entropy_in_bits(logits: torch.Tensor) -> float:
    """Of the distribution that one row [1, V] of logits stands for."""
    return float(torch.distributions.Categorical(logits=logits[0].double()).entropy()) / math.log(2)
