"""The models of the profiles `study`, which is what one CPU core can do, and `paper`: SmolLM2-135M-Instruct on TOFU,
target and oracle, pruned.

The model is fine-tuned on TOFU's authors. Where only the last layers train (`Setting.top`), the layers below are
those of the published model in target and oracle alike: they are pruned once per recipe, on calibration text that
both have learnt, and their outputs are computed once per sequence (`nets.part`).
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from palimpsest import runs
from palimpsest.chapters.sau.arms import DENSE, prune
from palimpsest.chapters.sau.profiles import PROFILES, Rows, SmolLM2
from palimpsest.chapters.sau.weights import apart, put, state, together
from palimpsest.chapters.shared.profiles import choose
from palimpsest.data import smollm2, tofu
from palimpsest.data.questions import Questions
from palimpsest.nets import language
from palimpsest.nets.language import Encoded
from palimpsest.nets.part import Part, Remembered
from palimpsest.nets.tokens import PROMPT
from palimpsest.pruning import Masks
from palimpsest.pruning.decoder import decoder_layers
from palimpsest.runs import paths
from palimpsest.training import seeds
from palimpsest.training.language import fit
from palimpsest.unlearning.language import Update, stress
from palimpsest.unlearning.language.update import movable

MAX_LENGTH = 256


def take(rows: Rows) -> Questions:
    """These questions of TOFU."""
    split, first, last = rows
    return tofu.load(split).subset(range(first, last))


@dataclass(frozen=True)
class Cohort:
    """One seed of one profile, for the verdict or for tuning, which start from the same target; see
    `cohort.Cohort`."""

    setting: SmolLM2
    group: str
    seed: int

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return below(self.setting, *DENSE)[2]

    @property
    def forget(self) -> Questions:
        return take(self.setting.tuning if self.group == "tuning" else self.setting.forget)

    @property
    def examined(self) -> Questions:
        return take(self.setting.examined)

    @property
    def retain(self) -> Questions:
        """What stays: every author that was learnt but those to forget."""
        kept, setting = self.examined, self.setting
        for rows in (*setting.retain, setting.forget if self.group == "tuning" else setting.tuning):
            kept = kept + take(rows)
        return kept

    @property
    def known(self) -> Questions:
        """All that was learnt but the forget set."""
        return self.retain

    def encode(self, questions: Questions, form: int = 1) -> Encoded:
        asked = questions.question if form == 1 else questions.question_2
        return language.encode(self.tokenizer, asked, questions.answer, MAX_LENGTH, PROMPT)

    def material(self, whose: str) -> Encoded:
        """What a model is fine-tuned on."""
        known = replace(self, group="replication").retain
        if whose == "target":
            known = known + take(self.setting.forget)
        return self.encode(known)

    def calibration(self) -> Tensor:
        """Full rows of tokens from what target and oracle have both learnt, one answer after another."""
        return self.encode(self.examined).packed(*self.setting.calibration)

    def moving(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """What is trained and forgets, by name."""
        return movable(model, Update(top=self.setting.top))

    def load(self, whose: str, pruner: str = DENSE[0], sparsity: str = DENSE[1]) -> tuple[nn.Module, Masks | None]:
        """The "target" or the "oracle", dense or pruned, with its masks; from the cache or made now. "published" is
        the model as it came, above layers that are pruned by the recipe."""
        whole, remembered, _ = below(self.setting, pruner, sparsity)
        top, layers = self.setting.top, len(whole.get_decoder().layers)
        if top is None:
            model = copy.deepcopy(whole)
        else:
            embeddings = whole.get_input_embeddings(), whole.get_output_embeddings()
            shared = [*whole.get_decoder().layers[: layers - top], *embeddings]
            model = Part(copy.deepcopy(whole, {id(m): m for m in shared}), layers - top, layers, remembered)
        for parameter in self.moving(model).values():
            parameter.requires_grad_(True)
        if whose == "published":
            return model, None
        config = {"profile": self.setting.name, "seed": self.seed, "whose": whose}
        if (pruner, sparsity) == DENSE:
            put(self.moving(model), runs.artifact(train, config))
            return model, None
        found = runs.artifact(pruned, config | {"pruner": pruner, "sparsity": sparsity})
        weights, kept = apart(found)
        put(self.moving(model), weights)
        return model, Masks(kept)

    def prune(self, model: nn.Module, pruner: str, sparsity: str) -> Masks:
        """Prune the layers that train, in place; the calibration is the same, whosever the model is."""
        return prune(model, self.calibration, pruner, sparsity)

    def recover(self, model: nn.Module, masks: Masks, whose: str, pruner: str, sparsity: str) -> None:
        """Train a pruned model on what the model `whose` has learnt, its zeros held, where the recipe says so."""
        if (pruner, sparsity) in self.setting.recovery:
            epochs, lr = self.setting.recovery[pruner, sparsity]
            sizes = {
                "lr": lr,
                "epochs": epochs,
                "seed": seeds.derived(self.seed, "recovery"),
                "batch_size": self.setting.training.batch_size,
            }
            stress.relearn(model, self.material(whose), lambda: 0.0, masks=masks, **sizes)

    def references(self, pruner: str, sparsity: str) -> tuple[str, ...]:
        return ("target", "oracle", *(["published"] if (pruner, sparsity) == DENSE else []))

    def pruned_after(self, model: nn.Module, pruner: str, sparsity: str) -> Iterator[tuple[str, nn.Module, Masks]]:
        """The forgetful dense model pruned, and recovered on what the oracle has learnt: the forget set is gone by
        then. Kind "A bare" is before that."""
        after, _ = self.load("target", pruner, sparsity)  # for the layers below, pruned
        put(self.moving(after), state(self.moving(model)))
        masks = self.prune(after, pruner, sparsity)
        yield "A bare", after, masks
        self.recover(after, masks, "oracle", pruner, sparsity)
        yield "A", after, masks


@cache
def below(
    setting: SmolLM2, pruner: str, sparsity: str
) -> tuple[nn.Module, nn.Module | None, PreTrainedTokenizerBase]:
    """(the published model with the layers that do not train pruned, the memory of these layers, the tokenizer)."""
    model, tokenizer = smollm2.load(paths.outside("smollm2"))
    model.requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")
    top, layers = setting.top, len(decoder_layers(model))
    if top is None:
        return model, None, tokenizer
    lower = Part(model, 0, layers - top)
    if (pruner, sparsity) != DENSE:
        found = runs.artifact(prune_below, {"profile": setting.name, "pruner": pruner, "sparsity": sparsity})
        put({name: dict(lower.named_parameters())[name] for name in found}, found)
    return model, Remembered(lower, tokenizer.pad_token_id), tokenizer


def _cohort(profile: str, seed: int) -> Cohort:
    return Cohort(choose(profile, PROFILES), "replication", seed)


def prune_below(profile: str, pruner: str, sparsity: str) -> dict[str, Tensor]:
    """The matrices of the layers that do not train, pruned; every model of the profile has these."""
    model, _ = smollm2.load(paths.outside("smollm2"))
    cohort = _cohort(profile, 0)
    lower = Part(model, 0, len(decoder_layers(model)) - cohort.setting.top)
    masks = prune(lower, cohort.calibration, pruner, sparsity, show="layers below")
    named = dict(lower.named_parameters())
    return {name: named[name].detach() for name in masks.kept}


def train(profile: str, seed: int, whose: str) -> dict[str, Tensor]:
    """The layers that train, fine-tuned on everything ("target") or on everything but the forget set ("oracle")."""
    cohort = _cohort(profile, seed)
    model, _ = cohort.load("published")
    config = {"profile": profile, "seed": seed, "whose": whose}
    state = paths.CACHE / "train-state" / runs.key(train, config)[:16]
    material = cohort.material(whose).to(model.device)
    fit(model, material, cohort.setting.training, seed, checkpoint=state, show=f"fine-tuning the {whose}")
    return {name: p.detach() for name, p in cohort.moving(model).items()}


def pruned(profile: str, seed: int, whose: str, pruner: str, sparsity: str) -> dict[str, Tensor]:
    """The same after pruning, and recovery where the recipe has it, as `weights.together`."""
    cohort = _cohort(profile, seed)
    model, _ = cohort.load("published", pruner, sparsity)
    put(cohort.moving(model), runs.artifact(train, {"profile": profile, "seed": seed, "whose": whose}))
    masks = cohort.prune(model, pruner, sparsity)
    cohort.recover(model, masks, whose, pruner, sparsity)
    return together(cohort.moving(model), masks.kept)


def to_make(setting: SmolLM2) -> list[dict]:
    """The models to train and prune before anything else, as arguments of `experiment.make`."""
    return [
        {"group": "replication", "seed": seed, "whose": whose, "pruner": pruner, "sparsity": sparsity}
        for pruner, sparsity in (DENSE, *setting.recipes)
        for seed in setting.seeds
        for whose in ("target", "oracle")
    ]
