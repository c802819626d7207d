"""How the shipped decoding pairs are trained: batches that are functions of the step, on the one loop of
training.

First the vision tower and the projector learn, from the mean of their output tokens, to classify the picture and its
measurements (`TowerTask`): 49 tokens through a small tower cost a tenth of a caption through the whole model. Then
everything is trained on captions (`CaptionTask`); the target goes on with both in turn (`TurnsTask`). Last come
pictures that are not moved about, as those of the test split. The language models of the text pair get the same
texts, told the facts in words.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from palimpsest.data import captions
from palimpsest.data.fashion_mnist import CLASSES, SIDE
from palimpsest.data.pairs import Processor
from palimpsest.data.splits import Split
from palimpsest.training import seeds
from palimpsest.training.loop import Run, descend

SHIFT = 2
"""Pixels by which a training picture is moved at most, each way."""
BATCHES = {"name": (32, 0.15), "describe": (24, 0.35), "detail": (16, 0.5)}
"""By kind of text: texts per batch, and share of the batches. One kind per batch, so that little of it is padding."""
WARMUP = 100
WEIGHT_DECAY = 0.05
BETAS = (0.9, 0.98)


def augment(images: torch.Tensor, generator: torch.Generator, shift: int = SHIFT) -> torch.Tensor:
    """Each of uint8 [N, 28, 28] mirrored with probability 1/2, and moved by up to `shift` pixels with black moving
    in."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None], images.flip(2), images)
    padded = F.pad(images, (shift,) * 4)
    corners = torch.randint(2 * shift + 1, (len(images), 2), generator=generator).tolist()
    return torch.stack([p[y : y + SIDE, x : x + SIDE] for p, (y, x) in zip(padded, corners, strict=True)])


def drawn(
    split: Split, count: int, generator: torch.Generator, shift: int = SHIFT
) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` augmented pictures of `split` (uint8 [count, 28, 28]) and their labels (int64 [count])."""
    chosen = torch.randperm(len(split), generator=generator)[:count]
    return augment(split.images[chosen], generator, shift), split.labels[chosen]


class TowerTask(nn.Module):
    """Mean of the visual tokens -> class and levels, by linear layers that are thrown away afterwards."""

    def __init__(
        self, model: nn.Module, split: Split, processor: Processor, *, batch_size: int, seed: int, shift: int = SHIFT
    ):
        super().__init__()
        self.model, self.split, self.processor = model, split, processor
        self.batch_size, self.seed, self.shift = batch_size, seed, shift
        outputs = len(CLASSES) + 3 * len(captions.ATTRIBUTES)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seeds.derived(seed, "head"))
            self.head = nn.Linear(model.config.text_config.hidden_size, outputs)

    def loss(self, step: int) -> torch.Tensor:
        generator = seeds.generator(self.seed, "step", step)
        images, labels = drawn(self.split, self.batch_size, generator, self.shift)
        return self.scores(images, labels)[0]

    def scores(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, float]:
        """The training loss on these pictures, and the share of them whose class is right."""
        row = self.processor("?", images)
        tokens = self.model.model.get_image_features(row["pixel_values"], row["image_sizes"]).pooler_output
        scores = self.head(torch.stack(list(tokens)).mean(1))
        by_class, by_level = scores.split([len(CLASSES), 3 * len(captions.ATTRIBUTES)], 1)
        levels = captions.levels(images)
        loss = F.cross_entropy(by_class, labels) + F.cross_entropy(by_level.view(*levels.shape, 3).mT, levels)
        return loss, (by_class.argmax(1) == labels).float().mean().item()


class CaptionTask(nn.Module):
    """Cross-entropy of the texts' tokens and the end token, given the prompt and, with `pictures`, the picture."""

    def __init__(
        self, model: nn.Module, split: Split, processor: Processor, *, pictures: bool, seed: int, shift: int = SHIFT
    ):
        super().__init__()
        self.model, self.split, self.processor = model, split, processor
        self.pictures, self.seed, self.shift = pictures, seed, shift

    def loss(self, step: int) -> torch.Tensor:
        generator = seeds.generator(self.seed, "step", step)
        kinds = list(BATCHES)
        shares = torch.tensor([BATCHES[kind][1] for kind in kinds])
        kind = kinds[torch.multinomial(shares, 1, generator=generator)]
        images, labels = drawn(self.split, BATCHES[kind][0], generator, self.shift)
        rows = captions.levels(images).tolist()
        texts = [captions.compose(y, row, kind, generator) for y, row in zip(labels.tolist(), rows, strict=True)]
        prompts = [text.prompt for text in texts]
        if not self.pictures:
            told = [captions.facts(y, row) for y, row in zip(labels.tolist(), rows, strict=True)]
            prompts = [f"{prompt} {fact}" for prompt, fact in zip(prompts, told, strict=True)]
        answers = [self.processor.tokenizer.encode(text.text) for text in texts]
        return answer_loss(self.model, self.processor, prompts, answers, images if self.pictures else None)


class TurnsTask(nn.Module):
    """Two steps of a `TowerTask`, then one of a `CaptionTask` of the same model, and so on: the tower goes on
    learning at a sixth of a caption's cost, while the language model follows what its tokens come to mean."""

    def __init__(self, tower: TowerTask, captions_task: CaptionTask):
        super().__init__()
        self.tower, self.captions_task = tower, captions_task

    def loss(self, step: int) -> torch.Tensor:
        return (self.captions_task if step % 3 == 2 else self.tower).loss(step)


class DistillationTask(nn.Module):
    """At every second step `CaptionTask`, else the same loss on what the target itself said: `said`, a list of
    (prompts, answers, images), each a batch as for `answer_loss`. The captions keep the drafter's second and third
    guesses honest; the target's own text teaches it which wording the target prefers."""

    def __init__(self, captions_task: CaptionTask, said: list):
        super().__init__()
        self.captions_task, self.said = captions_task, said

    def loss(self, step: int) -> torch.Tensor:
        if step % 2:
            return self.captions_task.loss(step)
        chosen = torch.randint(len(self.said), (), generator=seeds.generator(self.captions_task.seed, "said", step))
        return answer_loss(self.captions_task.model, self.captions_task.processor, *self.said[chosen])


def logits_of_answers(
    model: nn.Module,
    processor: Processor,
    prompts: list[str],
    answers: list[list[int]],
    images: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits [T, vocabulary] at every token of `answers` and at the end token after each, those tokens [T]), on the
    model's device.

    prompts and answers: one per row; images: uint8 [N, 28, 28], or None for a model that takes none.
    """
    rows = [processor(p, None if images is None else images[i : i + 1]) for i, p in enumerate(prompts)]
    asked = [row["input_ids"][0] for row in rows]
    special = processor.tokenizer
    said = [torch.tensor([*answer, special.eos_token_id]) for answer in answers]
    # Padding is on the right and attention is causal, so no token that counts sees it and no mask is needed.
    ids = pad_sequence([torch.cat(pair) for pair in zip(asked, said, strict=True)], True, special.pad_token_id)
    counted = [torch.cat([torch.zeros_like(a), torch.ones_like(s)]) for a, s in zip(asked, said, strict=True)]
    ids, counted = ids.to(model.device), pad_sequence(counted, True).bool()[:, 1:].to(model.device)
    seen = {key: torch.cat([row[key] for row in rows]).to(model.device) for key in rows[0] if key != "input_ids"}
    logits = model(input_ids=ids, use_cache=False, **seen).logits
    return logits[:, :-1][counted], ids[:, 1:][counted]


def answer_loss(
    model: nn.Module,
    processor: Processor,
    prompts: list[str],
    answers: list[list[int]],
    images: torch.Tensor | None,
) -> torch.Tensor:
    """Mean cross-entropy in nats of what `logits_of_answers` predicts."""
    return F.cross_entropy(*logits_of_answers(model, processor, prompts, answers, images))


def fit(
    task: nn.Module,
    *,
    steps: int,
    lr: float,
    identity: dict,
    folder: Path,
    show: str,
    every: int = 100,
    on_save: Callable[[int], None] = lambda step: None,
) -> None:
    """Minimise `task.loss(step)` over step = 0 .. `steps` - 1 with AdamW, in place, and leave it in evaluation mode.

    The step size rises linearly to `lr` and falls to zero along a cosine. Every `every` steps the state is written
    to `folder` and `on_save(steps done)` is called; an earlier state of the same `identity` is continued to the same
    bits, one of another raises ValueError. Raises TrainingDiverged when a loss or a gradient is not finite.
    """
    parameters = dict(task.named_parameters())
    optimiser = torch.optim.AdamW(parameters.values(), lr, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)
    run = Run(folder, lambda: {**identity, "steps": steps, "lr": lr})
    losses = run.values.setdefault("loss", [])

    def block(number: int) -> Iterator[None]:
        for step in range(number * every, min((number + 1) * every, steps)):
            yield
            losses.append(round(descend(task.loss(step), parameters, optimiser), 4))

    task.train()
    run.train(
        block,
        parameters,
        optimiser,
        steps=steps,
        every=every,
        lr=lr,
        rate=lambda step: lr * min((step + 1) / WARMUP, 0.5 * (1 + math.cos(math.pi * step / steps))),
        after=lambda done: on_save(min(done * every, steps)),
        show=show,
    )
    task.eval()
