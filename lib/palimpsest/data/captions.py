"""Captions and long descriptions of Fashion-MNIST pictures, written by rule from the class and nine measurements.

All of this is ours: no paper describes it. A picture is measured, each measurement falls into one of three
levels, and a text says some or all of them in words drawn at random (`caption_words`). What a text asserts can
be read back from it, so a model's own text can be judged against the picture. The drawn wording is what gives a
language model something to be unsure of: the choice of order, of optional sentences and of synonyms has
entropy, the words in between have nearly none.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage

from . import caption_words as words
from .fashion_mnist import CLASSES, SIDE

FOREGROUND = 25
"""A pixel brighter than this (of 255) belongs to the garment; the background of the set is 0."""
SMALLEST_OPENING = 2
"""Pixels. A single dark pixel inside a garment is shading, not an opening."""

THRESHOLDS = {
    "tone": (145.0, 185.0),
    "cover": (0.36, 0.55),
    "proportion": (0.9, 1.4),
    "height": (-0.75, 0.75),
    "side": (-0.75, 0.75),
    "symmetry": (0.12, 0.3),
    "texture": (42.0, 52.0),
    "openings": (0.5, 1.5),
    "lines": (-0.3, 0.3),
}
"""By attribute, in the units of `measure`: below the first is the first level, from the second on the last."""
ATTRIBUTES = tuple(THRESHOLDS)
LEVELS = {attribute: tuple(words.PREDICATES[attribute]) for attribute in ATTRIBUTES}
KINDS = tuple(words.PROMPTS)

SENTENCES_WITH_USE = {"name": 0.4, "describe": 0.5, "detail": 0.8}
"""By kind, how often a text says what the garment is for."""
ATTRIBUTES_TOLD = {"name": 0, "describe": 4, "detail": len(ATTRIBUTES)}
TOLD = 0.9
"""How often an attribute that may be told is told."""
SECOND_REGISTER = 0.3
"""How often a text prefers the second wording of everything to the first."""


class Caption(NamedTuple):
    prompt: str
    text: str


class Reading(NamedTuple):
    """What a text asserts: the class (None when it names none, or two) and the level of each attribute told once."""

    label: int | None
    levels: dict[str, int]


def measure(images: torch.Tensor) -> torch.Tensor:
    """The nine measurements of uint8 [N, 28, 28] pictures: float64 [N, 9], columns as in `ATTRIBUTES`.

    tone: mean grey value (0 to 255) of the garment's pixels; cover: their share of the frame; proportion:
    height over width of the box around them; height, side: distance in pixels of the centre of brightness from
    the frame's centre, down and right positive; symmetry: half the relative difference from the mirror image
    about the box's middle line, 0 for equal and 1 for disjoint; texture: standard deviation of the garment's
    grey values; openings: enclosed dark areas of at least two pixels; lines: log of the summed vertical over the
    summed horizontal differences between neighbours, so horizontal edges are positive.

    Raises ValueError for another dtype or shape, and for a picture without a bright pixel.
    """
    if images.dtype != torch.uint8 or images.shape[1:] != (SIDE, SIDE):
        raise ValueError(f"images: got {images.dtype} {list(images.shape)}, want uint8 [N, {SIDE}, {SIDE}]")
    grey = images.numpy().astype(np.float64)
    garment = images.numpy() > FOREGROUND
    size = garment.sum((1, 2))
    if (size == 0).any():
        raise ValueError(f"images: picture {int(size.argmin())} has no pixel above {FOREGROUND}, want a garment")
    tone = (grey * garment).sum((1, 2)) / size
    texture = np.sqrt((np.square(grey - tone[:, None, None]) * garment).sum((1, 2)) / size)
    (top, bottom), (left, right) = _extent(garment.any(2)), _extent(garment.any(1))
    total = grey.sum((1, 2))
    place = np.arange(SIDE) - (SIDE - 1) / 2
    mirrored = (left + right)[:, None] - np.arange(SIDE)
    inside = (mirrored >= 0) & (mirrored < SIDE)
    mirror = np.take_along_axis(grey, mirrored.clip(0, SIDE - 1)[:, None], 2) * inside[:, None]
    across, down = (np.abs(np.diff(grey, axis=axis)).sum((1, 2)) for axis in (2, 1))
    columns = {
        "tone": tone,
        "cover": size / SIDE**2,
        "proportion": (bottom - top + 1) / (right - left + 1),
        "height": grey.sum(2) @ place / total,
        "side": grey.sum(1) @ place / total,
        "symmetry": np.abs(grey - mirror).sum((1, 2)) / (2 * total),
        "texture": texture,
        "openings": np.array([_openings(mask) for mask in garment], float),
        # One grey level keeps the ratio finite for a picture that varies along one axis only.
        "lines": np.log((down + 1) / (across + 1)),
    }
    return torch.from_numpy(np.stack([columns[attribute] for attribute in ATTRIBUTES], 1))


def levels(images: torch.Tensor) -> torch.Tensor:
    """The level, 0 to 2, of each measurement of uint8 [N, 28, 28] pictures: int64 [N, 9]. ValueError as `measure`."""
    bounds = torch.tensor([THRESHOLDS[attribute] for attribute in ATTRIBUTES], dtype=torch.float64)
    return (measure(images)[:, :, None] >= bounds).sum(2)


def facts(label: int, levels: Sequence[int]) -> str:
    """Class and levels as one line of words, for a model that gets no picture: "sneaker: dark, little, ..."."""
    values = ", ".join(LEVELS[attribute][level] for attribute, level in zip(ATTRIBUTES, levels, strict=True))
    return f"{words.NOUNS[label][0]}: {values}."


def compose(label: int, levels: Sequence[int], kind: str, generator: torch.Generator) -> Caption:
    """A prompt of `kind` ("name", "describe" or "detail") and a text about a picture of class `label`.

    `levels` has one level, 0 to 2, for each of `ATTRIBUTES`. The wording comes from `generator` alone. Raises
    ValueError for an unknown kind, a label outside 0 to 9, or levels of another number or range.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: got {kind!r}, want one of {list(KINDS)}")
    if label not in range(len(CLASSES)):
        raise ValueError(f"label: got {label}, want 0 to {len(CLASSES) - 1}")
    if len(levels) != len(ATTRIBUTES) or not set(levels) <= {0, 1, 2}:
        raise ValueError(f"levels: got {list(levels)}, want {len(ATTRIBUTES)} values from 0, 1, 2")
    # One draw of many numbers: a call of the generator for each would take most of the time.
    uniform = iter(torch.rand(128, generator=generator).tolist())
    register = int(next(uniform) < SECOND_REGISTER)

    def pick(wordings):
        """The k-th wording with weight 1/k, counted from the register's own."""
        mass = next(uniform) * sum(1 / k for k in range(1, len(wordings) + 1))
        rank = 0
        while mass > 1 / (rank + 1) and rank < len(wordings) - 1:
            mass -= 1 / (rank + 1)
            rank += 1
        return wordings[(rank + register) % len(wordings)]

    prompt = pick(words.PROMPTS[kind])
    noun = pick(words.NOUNS[label])
    sentences = [pick(words.OPENERS).format(a_noun=f"{'an' if noun[0] in 'aeio' else 'a'} {noun}")]
    if next(uniform) < SENTENCES_WITH_USE[kind]:
        sentences.append(pick(words.USES[label]))
    level = dict(zip(ATTRIBUTES, levels, strict=True))
    order = pick(words.ORDERS)[: ATTRIBUTES_TOLD[kind]]
    told = [pick(words.PREDICATES[name][LEVELS[name][level[name]]]) for name in order if next(uniform) < TOLD]
    while told:
        subject = pick(words.SUBJECTS).format(noun=noun)
        frame = pick(words.PAIR if len(told) > 1 and next(uniform) < 0.6 else words.SINGLE)
        first, second = (*told, "")[:2]
        lower = subject[0].lower() + subject[1:]
        sentences.append(frame.format(Subject=subject, subject=lower, first=first, second=second))
        told = told[2 if "{second}" in frame else 1 :]
    if kind == "detail" and next(uniform) < TOLD:
        sentences.append(pick(words.CLOSERS))
    return Caption(prompt, " ".join(sentences))


def read(text: str) -> Reading:
    """What a text in the words of `compose` asserts. An attribute told twice with different levels is left out."""
    nouns = set(_NOUN.findall(text))
    named = {label for label, synonyms in enumerate(words.NOUNS) if nouns & set(synonyms)}
    told = {}
    for attribute, patterns in _PREDICATE.items():
        found = [level for level, pattern in enumerate(patterns) if pattern.search(text)]
        if len(found) == 1:
            told[attribute] = found[0]
    return Reading(named.pop() if len(named) == 1 else None, told)


def _one_of(phrases):
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, phrases))})\b")


_NOUN = _one_of([noun for synonyms in words.NOUNS for noun in synonyms])
_PREDICATE = {
    attribute: [_one_of(phrases) for phrases in words.PREDICATES[attribute].values()] for attribute in ATTRIBUTES
}


def _extent(occupied):
    """First and last True of each row of a bool [N, 28] array."""
    return occupied.argmax(1), SIDE - 1 - occupied[:, ::-1].argmax(1)


def _openings(mask):
    areas, count = ndimage.label(ndimage.binary_fill_holes(mask) & ~mask)
    return int((np.bincount(areas.ravel(), minlength=count + 1)[1:] >= SMALLEST_OPENING).sum())
