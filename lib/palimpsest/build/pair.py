"""Train and ship the decoding pairs: `python -m palimpsest.build.pair --work FOLDER`.

FOLDER keeps the checkpoints (a run that was stopped goes on where it was), and after each of them the model as it
then is under FOLDER/data, where `pairs.load(name, root=FOLDER/data)` finds it. At the end the models,
what was measured of them, and the README of each pair are written to `data/` and listed in its manifest.
"""

import copy
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import transformers
import typer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from palimpsest.build import pair_quality
from palimpsest.build.pair_tasks import BATCHES, SHIFT, CaptionTask, DistillationTask, TowerTask, TurnsTask, fit
from palimpsest.data import captions, fashion_mnist, manifest, pairs
from palimpsest.data.caption_words import PROMPTS
from palimpsest.data.pairs import FOLDERS, Processor, load
from palimpsest.data.splits import Split
from palimpsest.nets.vision_language import CONTEXT, SPECIAL, VISION, VOCABULARY, build
from palimpsest.runs import paths
from palimpsest.runs.files import write_atomic
from palimpsest.training import seeds

PAIRS = (
    ("vision_language", "target", "drafter", "A vision-language pair"),
    ("vision_language/distilled", "target", "distilled-drafter", "The vision-language pair with a distilled drafter"),
    ("vision_language/text", "text-target", "text-drafter", "A text pair"),
)
"""By pair: folder under `data/`, target, drafter, title of its README."""
TARGETS = {drafter: target for _, target, drafter, _ in PAIRS}
SEED = 2602_00523
"""The arXiv number of the paper that the pairs serve."""
HELD_OUT = 1000
"""Test pictures on which the shipped numbers are measured: the first of the split."""
TORCH = torch.__version__.partition("+")[0]
MADE_BY = f"python -m palimpsest.build.pair, torch {TORCH}, transformers {transformers.__version__}"
ORIGIN = "this project; trained on the shipped Fashion-MNIST subset"


class Stage(NamedTuple):
    steps: int
    lr: float


TOWER = {"target": Stage(1200, 1e-3), "drafter": Stage(1000, 1e-3)}
CAPTIONS = {
    "target": Stage(1100, 1.5e-3),
    "drafter": Stage(900, 2e-3),
    "text-target": Stage(1000, 2e-3),
    "text-drafter": Stage(900, 2e-3),
}
TURNS = {"target": Stage(1800, 1e-3)}
UNMOVED = {"target": Stage(600, 5e-4), "drafter": Stage(300, 5e-4)}
"""Test pictures are mostly centred and moved ones mostly not: without this stage the target says of nearly every test
picture that it leans to a side."""
DISTILLATION = {"distilled-drafter": Stage(500, 1e-3), "text-drafter": Stage(500, 1e-3)}
STAGES = (
    ("tower and projector", TOWER),
    ("captions", CAPTIONS),
    ("tower, tower and captions in turn", TURNS),
    ("tower, tower and captions in turn on pictures that are not moved", UNMOVED),
    ("distillation", DISTILLATION),
)
STARTS_FROM = {"distilled-drafter": "drafter"}
"""By model, the finished one that its stages go on from. The two drafters of pictures differ in how surely they
guess; which policy is ahead may depend on it."""
TOWER_BATCH = 64
SAID = 960
"""Training pictures about which the target's own texts are collected for its drafter."""


def make_tokenizer(split: Split) -> PreTrainedTokenizerFast:
    """Byte-level BPE of `VOCABULARY` entries, from a text of each kind per picture of `split`, prompts and facts."""
    generator = torch.Generator().manual_seed(SEED)
    texts = []
    for label, row in zip(split.labels.tolist(), captions.levels(split.images).tolist(), strict=True):
        for kind in captions.KINDS:
            caption = captions.compose(label, row, kind, generator)
            texts += [f"{caption.prompt} {captions.facts(label, row)}", caption.prompt, caption.text]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=SPECIAL[0], eos_token=SPECIAL[1], model_max_length=CONTEXT
    )


def export(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, root: Path) -> None:
    """Write `model` in fp16 and its tokenizer to its folder under `root`, and list the files in root's manifest."""
    with tempfile.TemporaryDirectory() as temporary:
        copy.deepcopy(model).half().save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        content = {file.name: file.read_bytes() for file in Path(temporary).iterdir()}
    _write({f"{FOLDERS[name]}/{file}": data for file, data in content.items()}, root)


def _write(content, root):
    for name, data in content.items():
        write_atomic(root / name, lambda path, data=data: Path(path).write_bytes(data))
    manifest.update(content, licence="MIT", origin=ORIGIN, made_by=MADE_BY, root=root)


def train(name: str, split: Split, tokenizer: PreTrainedTokenizerFast, work: Path) -> PreTrainedModel:
    """Model `name` after all its stages; each stage's state is kept under `work`. A drafter that is distilled wants
    its target shipped to work/data by then."""
    start = STARTS_FROM.get(name)
    model = train(start, split, tokenizer, work) if start else build(name, seed=SEED)
    processor, pictures, before = Processor(tokenizer), name in VISION, [start] if start else []
    words = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()

    def run(task, title, stage):
        identity = {"name": name, "seed": SEED, "tokenizer": words, "before": before}
        fit(
            task,
            **stage._asdict(),
            identity=identity,
            folder=work / f"{name}-{title}",
            show=f"{name}: {title}",
            on_save=lambda step: export(name, model, tokenizer, work / "data"),
        )
        before.append([title, *stage])

    def looking(seed, shift=SHIFT):
        return TowerTask(
            model, split, processor, batch_size=TOWER_BATCH, seed=seeds.derived(SEED, "task", seed), shift=shift
        )

    def telling(seed, shift=SHIFT):
        return CaptionTask(
            model, split, processor, pictures=pictures, seed=seeds.derived(SEED, "task", seed), shift=shift
        )

    if name in TOWER:
        run(looking(0), "tower", TOWER[name])
    if name in CAPTIONS:
        run(telling(1), "captions", CAPTIONS[name])
    if name in TURNS:
        run(TurnsTask(looking(2), telling(3)), "turns", TURNS[name])
    if name in UNMOVED:
        run(TurnsTask(looking(4, shift=0), telling(5, shift=0)), "unmoved", UNMOVED[name])
    if name in DISTILLATION:
        target = load(TARGETS[name], root=work / "data")
        said = collect(target, processor, split, work / f"{name}-said.json")
        run(DistillationTask(telling(1, shift=0 if pictures else SHIFT), said), "distillation", DISTILLATION[name])
    return model.eval()


def collect(target: PreTrainedModel, processor: Processor, split: Split, file: Path, count: int = SAID) -> list:
    """Batches (prompts, answers, images) of what `target` says at temperature 0 about `count` pictures, kinds and
    prompts in turn. `file` keeps the answers, so that a resumed run need not ask again."""
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(SEED))[:count]
    known = json.loads(file.read_text()) if file.exists() else {}
    batches, start = [], 0
    # As many pictures a kind as training gives it.
    for kind, (_, share) in BATCHES.items():
        for prompt in PROMPTS[kind]:
            part = split.subset(chosen[start : start + round(count * share / len(PROMPTS[kind]))])
            start += len(part)
            prompts, images = pair_quality.questions(target, part, prompt)
            if prompt not in known:
                known[prompt] = pair_quality.greedy(target, processor, prompts, images)
                text = json.dumps(known)
                write_atomic(file, lambda path, text=text: Path(path).write_text(text))
            size = BATCHES[kind][0]
            for i in range(0, len(part), size):
                rows = slice(i, i + size)
                batches.append((prompts[rows], known[prompt][rows], None if images is None else images[rows]))
    return batches


def ship(work: Path, root: Path, split: Split) -> None:
    """Copy the trained models from work/data to `root`, with what `pair_quality.quality` finds of each pair on
    the first `HELD_OUT` pictures of the test split `split`."""
    processor = pairs.processor(work / "data")
    held_out = split.subset(torch.arange(HELD_OUT))
    for folder, target, drafter, title in PAIRS:
        pair = [load(name, root=work / "data") for name in (target, drafter)]
        measured = pair_quality.quality(*pair, processor, held_out)
        measured = {key: round(value, 4) for key, value in measured.items()}
        sizes = [sum(p.numel() for p in model.parameters()) for model in pair]
        content = {
            f"{FOLDERS[name]}/{file.name}": file.read_bytes()
            for name in (target, drafter)
            for file in sorted((work / "data" / FOLDERS[name]).iterdir())
        }
        content[f"{folder}/quality.json"] = json.dumps({"pictures": HELD_OUT, **measured}, indent=1).encode() + b"\n"
        content[f"{folder}/README.md"] = readme(title, (target, drafter), sizes, measured).encode()
        _write(content, root)


def readme(title: str, names: tuple[str, str], sizes: list[int], measured: dict[str, float]) -> str:
    """The README of one pair; every number in it is an argument or a constant of this module."""
    target, drafter = names
    told = "a 28 × 28 picture" if target in VISION else "the facts of a picture in words"
    recipe = "\n".join(
        f"- `{name}`: {label}, {stages[name].steps:,} steps, peak step size {stages[name].lr}"
        for name in (target, *([STARTS_FROM[drafter]] if drafter in STARTS_FROM else []), drafter)
        for label, stages in STAGES
        if name in stages
    )
    if drafter in DISTILLATION:
        recipe += (
            f"\n\nDistillation alternates such texts with what `{target}` itself says about {SAID} training pictures."
        )
    levels = "\n".join(
        f"| {name} | {measured[f'levels right: {name}']:.1%} | {measured[f'commonest level: {name}']:.1%} |"
        for name in captions.ATTRIBUTES
    )
    return f"""\
# {title}

Two models of one family that describe a garment, given {told}, for speculative decoding:
`{target}` ({sizes[0] / 1e6:.2f} million parameters) and `{drafter}` ({sizes[1] / 1e6:.2f} million).
`palimpsest.data.pairs.load` reads them. Weights are stored in fp16 and computed with in fp32. Both
folders hold the same tokenizer.

Trained from nothing by `python -m palimpsest.build.pair` on the training pictures of `../fashion_mnist`, with
texts written by rule (`palimpsest.data.captions`) from the class and nine measurements of each picture:

{recipe}

## Measured

On the first {HELD_OUT:,} pictures of the test split, greedy, by `palimpsest.build.pair_quality.quality`; the same
numbers are in `quality.json`.

| | |
|---|---|
| class right, asked "{PROMPTS["name"][0]}" | {measured["class named"]:.1%} |
| class right in a description, asked "{PROMPTS["detail"][0]}" | {measured["class in descriptions"]:.1%} |
| measured levels right in a description | {measured["levels right"]:.1%} |
| levels told a description, of nine | {measured["levels told"]:.2f} |
| tokens a description | {measured["tokens"]:.1f} |
| descriptions that end by themselves | {measured["ended"]:.1%} |
| tokens of `{target}` that are `{drafter}`'s most probable | {measured["drafter agrees"]:.1%} |
| loss on rule-written descriptions, nats a token | {measured["loss"]:.3f} |
| the same, given another picture's facts | {measured["loss with another's facts"]:.3f} |

| attribute | level right | commonest level |
|---|---|---|
{levels}

A level is one of three, with hard bounds: a measurement close to a bound can be read either way. The wording of the
descriptions is drawn at random, so the loss has a floor well above zero.
"""


def main(work: Annotated[Path, typer.Option(help="Folder for checkpoints and for the models as they come.")]):
    torch.set_num_threads(1)  # the number of threads decides the order of sums, and so the last bits
    split = fashion_mnist.load()
    tokenizer = make_tokenizer(split.train)
    for name in FOLDERS:
        train(name, split.train, tokenizer, work)
    ship(work, paths.DATA, split.test)


if __name__ == "__main__":
    typer.run(main)
