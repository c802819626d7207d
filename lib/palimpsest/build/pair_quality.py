"""What the shipped pairs can do, measured on held-out pictures: every number of their README is recomputed here."""

from itertools import chain

import torch
from transformers import PreTrainedModel

from palimpsest.build.pair_tasks import answer_loss, logits_of_answers
from palimpsest.data import captions
from palimpsest.data.caption_words import PROMPTS
from palimpsest.data.pairs import Processor
from palimpsest.data.splits import Split

LONGEST = 192
"""Tokens after which a text is cut; the longest training text has about 140."""
BATCH = 50


def sees(model: PreTrainedModel) -> bool:
    """Whether `model` takes pictures; the others are told the facts in words."""
    return model.config.model_type != "llama"


def questions(model: PreTrainedModel, split: Split, prompt: str) -> tuple[list[str], torch.Tensor | None]:
    """`prompt` as `model` is to be asked it about each picture of `split`, and the pictures where it takes them."""
    if sees(model):
        return [prompt] * len(split), split.images
    rows = zip(split.labels.tolist(), captions.levels(split.images).tolist(), strict=True)
    return [f"{prompt} {captions.facts(label, levels)}" for label, levels in rows], None


@torch.no_grad()
def greedy(
    model: PreTrainedModel, processor: Processor, prompts: list[str], images: torch.Tensor | None
) -> list[list[int]]:
    """The tokens that `model` says to each prompt at temperature 0, without the end token, at most `LONGEST`.

    images: uint8 [N, 28, 28], or None for a model that takes none.
    """
    rows = [processor(p, None if images is None else images[i : i + 1]) for i, p in enumerate(prompts)]
    said, end, pad = [None] * len(rows), processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id
    # Prompts of one length together: a batch without padding needs no mask.
    by_length = {}
    for i, row in enumerate(rows):
        by_length.setdefault(row["input_ids"].shape[1], []).append(i)
    for length, members in by_length.items():
        for chunk in torch.tensor(members).split(BATCH):
            batch = {key: torch.cat([rows[i][key] for i in chunk]).to(model.device) for key in rows[0]}
            batch["attention_mask"] = torch.ones_like(batch["input_ids"])
            out = model.generate(**batch, do_sample=False, max_new_tokens=LONGEST, pad_token_id=pad, eos_token_id=end)
            for i, tokens in zip(chunk.tolist(), out[:, length:].tolist(), strict=True):
                said[i] = tokens[: tokens.index(end)] if end in tokens else tokens
    return said


@torch.no_grad()
def agreement(
    drafter: PreTrainedModel,
    processor: Processor,
    prompts: list[str],
    images: torch.Tensor | None,
    said: list[list[int]],
) -> tuple[int, int]:
    """(tokens of `said`, end tokens included, that are the drafter's most probable there; their number)."""
    hits = total = 0
    for start in range(0, len(said), BATCH):
        part = slice(start, start + BATCH)
        seen = None if images is None else images[part]
        logits, wanted = logits_of_answers(drafter, processor, prompts[part], said[part], seen)
        hits += int((logits.argmax(1) == wanted).sum())
        total += len(wanted)
    return hits, total


@torch.no_grad()
def quality(
    target: PreTrainedModel, drafter: PreTrainedModel, processor: Processor, split: Split
) -> dict[str, float]:
    """How well a target describes the pictures of `split`, and how well its drafter follows it; shares in [0, 1].

    - "class named": answers to the first prompt of kind "name" that name the picture's class and no other;
    - "class in descriptions": the same for descriptions (first prompt of kind "detail");
    - "levels right": of the attribute levels told in the descriptions, those that are the picture's own, and
      "levels right: ATTRIBUTE" for each; "commonest level: ATTRIBUTE" is what a constant answer would reach;
    - "levels told": attributes told once, a description (of nine);
    - "tokens": mean length of a description in tokens; "ended": share that ended by itself;
    - "drafter agrees": tokens of the descriptions that are the drafter's most probable, given those before;
    - "loss", "loss with another's facts": the target's mean loss in nats per token on rule-written descriptions,
      given their own picture (or facts) and given another picture's of the split (the next but half).
    """
    prompts, images = questions(target, split, PROMPTS["name"][0])
    named = [captions.read(processor.decode(tokens)) for tokens in greedy(target, processor, prompts, images)]
    prompts, images = questions(target, split, PROMPTS["detail"][0])
    said = greedy(target, processor, prompts, images)
    told = [captions.read(processor.decode(tokens)) for tokens in said]
    labels, levels = split.labels.tolist(), captions.levels(split.images).tolist()
    right = {attribute: [] for attribute in captions.ATTRIBUTES}
    for reading, row in zip(told, levels, strict=True):
        own = dict(zip(captions.ATTRIBUTES, row, strict=True))
        for attribute, level in reading.levels.items():
            right[attribute].append(level == own[attribute])
    commonest = torch.tensor(levels).unsqueeze(2).eq(torch.arange(3)).double().mean(0).amax(1).tolist()
    hits, total = agreement(drafter, processor, prompts, images, said)
    generator = torch.Generator().manual_seed(0)
    texts = [captions.compose(y, row, "detail", generator).text for y, row in zip(labels, levels, strict=True)]
    texts = [processor.tokenizer.encode(text) for text in texts]
    half = len(split) // 2
    other = images if images is None else images.roll(half, 0)
    return {
        "class named": _share(r.label == y for r, y in zip(named, labels, strict=True)),
        "class in descriptions": _share(r.label == y for r, y in zip(told, labels, strict=True)),
        "levels right": _share(chain.from_iterable(right.values())),
        **{f"levels right: {attribute}": _share(values) for attribute, values in right.items()},
        **{f"commonest level: {attribute}": share for attribute, share in zip(right, commonest, strict=True)},
        "levels told": sum(len(r.levels) for r in told) / len(told),
        "tokens": sum(map(len, said)) / len(said),
        "ended": _share(len(tokens) < LONGEST for tokens in said),
        "drafter agrees": hits / total,
        "loss": _loss(target, processor, prompts, texts, images),
        "loss with another's facts": _loss(target, processor, prompts[half:] + prompts[:half], texts, other),
    }


def _loss(model, processor, prompts, texts, images):
    parts = [slice(i, i + BATCH) for i in range(0, len(texts), BATCH)]
    sums = [
        answer_loss(model, processor, prompts[p], texts[p], None if images is None else images[p]).item()
        * sum(len(text) + 1 for text in texts[p])
        for p in parts
    ]
    return sum(sums) / sum(len(text) + 1 for text in texts)


def _share(values):
    values = list(values)
    return sum(values) / len(values) if values else float("nan")
