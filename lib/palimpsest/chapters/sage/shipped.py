"""The shipped pairs of `nets.vision_language` as a family: one target of pictures with drafters of five strengths."""

import json
from functools import cache, cached_property
from typing import ClassVar

import torch

from palimpsest import runs
from palimpsest.chapters.sage import weaker
from palimpsest.data import captions, manifest, pairs
from palimpsest.data.caption_words import PROMPTS
from palimpsest.data.pairs import Processor
from palimpsest.data.splits import Split
from palimpsest.decoding import Decoder, adapt
from palimpsest.nets.vision_language import VISION

ONE_LAYER = "one layer, steps "


@cache
def decoder(model: str, dtype: torch.dtype = torch.float32) -> Decoder:
    """The shipped `model`, or one of `weaker`, ready for tree decoding."""
    _, few, steps = model.partition(ONE_LAYER)
    return adapt((weaker.load(int(steps)) if few else pairs.load(model)).to(dtype))


class Shipped:
    """See `families.Family`. The drafter of "distilled" went on from that of "vision", on what the target says; those
    of "weak", "weaker" and "weakest" have one layer, see `weaker`."""

    pairs: ClassVar[dict[str, tuple[str, str]]] = {
        "vision": ("target", "drafter"),
        "distilled": ("target", "distilled-drafter"),
        "weak": ("target", "one layer, steps 40"),
        "weaker": ("target", "one layer, steps 12"),
        "weakest": ("target", "one layer, steps 5"),
    }
    decoder = staticmethod(decoder)

    @cached_property
    def processor(self) -> Processor:
        return pairs.processor()

    def prepare(self) -> None:
        runs.artifact(weaker.weights, {})

    def inputs(self, model: str, asked: Split) -> list[dict[str, torch.Tensor]]:
        levels, found = captions.levels(asked.images).tolist(), []
        for i, (label, row) in enumerate(zip(asked.labels.tolist(), levels, strict=True)):
            prompt = PROMPTS["detail"][i % len(PROMPTS["detail"])]
            if model in VISION:
                found.append(self.processor(prompt, asked.images[i : i + 1]))
            else:
                found.append(self.processor(f"{prompt} {captions.facts(label, row)}"))
        return found

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
