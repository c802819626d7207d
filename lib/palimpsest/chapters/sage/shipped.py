"""The shipped pairs of `nets.vision_language` as a family: two drafters of pictures, and a pair that reads facts."""

import json
from functools import cache, cached_property
from typing import ClassVar

import torch

from palimpsest.data import captions, manifest, pairs
from palimpsest.data.caption_words import PROMPTS
from palimpsest.data.pairs import Processor
from palimpsest.data.splits import Split
from palimpsest.decoding import Decoder, adapt
from palimpsest.nets.vision_language import LANGUAGE, VISION


@cache
def decoder(model: str, dtype: torch.dtype = torch.float32) -> Decoder:
    """The shipped `model`, ready for tree decoding."""
    return adapt(pairs.load(model).to(dtype))


class Shipped:
    """See `families.Family`. The drafter of "distilled" went on from that of "vision", on what the target says; the
    pair "text" is given a picture's facts in words."""

    pairs: ClassVar[dict[str, tuple[str, str]]] = {
        "vision": ("target", "drafter"),
        "distilled": ("target", "distilled-drafter"),
        "text": ("text-target", "text-drafter"),
    }
    decoder = staticmethod(decoder)

    @cached_property
    def processor(self) -> Processor:
        return pairs.processor()

    def prepare(self) -> None:
        """Nothing: they are trained, and each file is checked when it is read."""

    def inputs(self, model: str, asked: Split) -> list[dict[str, torch.Tensor]]:
        levels, found = captions.levels(asked.images).tolist(), []
        for i, (label, row) in enumerate(zip(asked.labels.tolist(), levels, strict=True)):
            prompt = PROMPTS["detail"][i % len(PROMPTS["detail"])]
            if model in VISION:
                found.append(self.processor(prompt, asked.images[i : i + 1]))
            else:
                found.append(self.processor(f"{prompt} {captions.facts(label, row)}"))
        return found

    def price(self, pair: str) -> float:
        target, drafter = (LANGUAGE[name][2] for name in self.pairs[pair])
        return drafter / target

    def quality(self) -> dict[str, float]:
        """As it was measured when they were trained; "commonest": the mean over attributes of what a constant answer
        would reach; "distilled agrees": the other drafter's "drafter agrees"."""
        folders = "vision_language", "vision_language/distilled"
        measured, distilled = (json.loads(manifest.verify(f"{name}/quality.json").read_text()) for name in folders)
        commonest = [measured[f"commonest level: {name}"] for name in captions.ATTRIBUTES]
        return measured | {
            "commonest": sum(commonest) / len(commonest),
            "distilled agrees": distilled["drafter agrees"],
        }


SHIPPED = Shipped()
"""One object, so that its processor is read once per process."""
