"""SmolLM2-135M with a vision tower as a family: one pair, trained here, that wants a GPU.

Target and drafter are `nets.smollm2_vision`, trained on the shipped Fashion-MNIST as `build.pair` trains the small
pair: first the target's projector, then all but the tower; then the drafter, its first layers, on the same texts and
on the target's own. Step sizes and their numbers were set by hand, not tuned.

The language models decode in float32 without TF32, so that a tree's row and plain decoding seldom differ in their
argmax. Static caches and CUDA graphs were not tried: both want shapes that stay, and a tree's change from round to
round.
"""

from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from math import isfinite

import torch
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from palimpsest import runs
from palimpsest.build import pair_quality
from palimpsest.build.pair import SEED, Stage, collect
from palimpsest.build.pair_tasks import CaptionTask, DistillationTask, fit
from palimpsest.data import fashion_mnist, smollm2
from palimpsest.data.caption_words import PROMPTS
from palimpsest.data.splits import Split
from palimpsest.decoding import Decoder
from palimpsest.decoding.seeing import SeeingLlamaDecoder
from palimpsest.nets import efficientnet
from palimpsest.nets.smollm2_vision import Processor, SeeingLlama, build
from palimpsest.runs import paths

PAIR = ("target", "drafter")
SAVE_EVERY = 250
"""Training steps between two checkpoints of 1.6 GB."""


@dataclass(frozen=True, eq=False)
class SmolLM2:
    """See `families.Family`. `layers` of the drafter; `stages` of each model; `said`: pictures about which the
    target's texts are collected; `held_out`: test pictures on which the pair is measured. `image_token` stands for a
    visual token: one that no text has."""

    image_token: str
    layers: int
    stages: dict[str, dict[str, Stage]]
    said: int
    held_out: int

    @property
    def pairs(self) -> dict[str, tuple[str, str]]:
        return {"vision": PAIR}

    @cached_property
    def parts(self) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase, nn.Module]:
        """(SmolLM2, its tokenizer, the tower), from the folders that PALIMPSEST_SMOLLM2 and PALIMPSEST_EFFICIENTNET
        name, or `smollm2` and `efficientnet` beside the caches. ValueError where a folder does not hold them."""
        return *smollm2.load(paths.outside("smollm2")), efficientnet.load(paths.outside("efficientnet"))

    @cached_property
    def processor(self) -> Processor:
        return Processor(self.parts[1], self.image_token)

    def fresh(self, model: str) -> SeeingLlama:
        """The `model` as training finds it, on the GPU where there is one."""
        base, _, tower = self.parts
        layers = self.layers if model == "drafter" else None
        found = build(base, tower, image_token_id=self.processor.image_token_id, seed=SEED, layers=layers)
        return found.to("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def _decoders(self) -> dict[str, Decoder]:
        return {}

    def decoder(self, model: str) -> Decoder:
        """The trained `model`, from the cache or trained now."""
        if model not in self._decoders:
            found = self.fresh(model)
            found.load_state_dict(runs.artifact(trained, {"family": asdict(self), "model": model}), strict=False)
            self._decoders[model] = SeeingLlamaDecoder(found.requires_grad_(False))
        return self._decoders[model]

    def prepare(self) -> None:
        for model in PAIR:
            runs.artifact(trained, {"family": asdict(self), "model": model})

    def inputs(self, model: str, asked: Split) -> list[dict[str, torch.Tensor]]:
        wordings, images = PROMPTS["detail"], asked.images
        return [self.processor(wordings[i % len(wordings)], images[i : i + 1]) for i in range(len(images))]

    def quality(self) -> dict[str, float | None]:
        return runs.cached(quality, {"family": asdict(self)})


def trained(family: dict, model: str) -> dict[str, torch.Tensor]:
    """The weights of the `model` after its stages, the tower's left out. Goes on from its last checkpoint.

    family: the fields of a `SmolLM2`.
    """
    key = runs.key(trained, {"family": family, "model": model})[:16]
    family = SmolLM2(**family)
    learner, folder, split = family.fresh(model), paths.CACHE / "trained-state" / key, fashion_mnist.load().train
    captions = CaptionTask(learner, split, family.processor, pictures=True, seed=SEED)
    for title, stage in family.stages[model].items():
        for part, parameter in learner.named_parameters():
            wanted = part.startswith("projector.") or title != "projector"
            parameter.requires_grad_(wanted and not part.startswith("tower."))
        task = captions
        if title == "distillation":
            target = family.decoder("target").model
            said = collect(target, family.processor, split, folder / "said.json", family.said)
            task = DistillationTask(captions, said)
        with _quick_products():
            fit(
                task,
                **stage._asdict(),
                identity={"run": key, "stage": title},
                folder=folder / title,
                show=f"{model}: {title}",
                every=SAVE_EVERY,
            )
    return {part: p.detach() for part, p in learner.named_parameters() if not part.startswith("tower.")}


@contextmanager
def _quick_products():
    """float32 products through TF32 on a GPU that has it: good enough to train by."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if torch.cuda.is_available() else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def quality(family: dict) -> dict[str, float | None]:
    """`pair_quality.quality` on the first pictures of the test split; `family` as in `trained`."""
    family = SmolLM2(**family)
    held_out = fashion_mnist.load().test.subset(torch.arange(family.held_out))
    models = (family.decoder(model).model for model in PAIR)
    found = pair_quality.quality(*models, family.processor, held_out)
    return {name: value if isfinite(value) else None for name, value in found.items()}
