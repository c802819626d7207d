"""The models of profiles `smoke` and `ci`: a small Llama that has memorised fictitious authors, its oracle, and both
pruned by one recipe.

Each seed draws its own authors to forget, its own starting weights and its own order of batches. The *target* is
trained on all authors but those held out, and on real facts. The *oracle* never saw the authors to forget. A pruned
target is compared with the oracle pruned in the same way, so that damage by pruning does not pass for forgetting.
Pruned models are *recovered*: trained on, their zeros held, on what they had learnt. One that is not would recover
while it unlearns, from the retain set, and what pruning broke would hide what unlearning breaks.

Step sizes are tuned on seeds of their own and on authors that no verdict seed forgets.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from palimpsest import runs
from palimpsest.chapters.sau.arms import DENSE, prune
from palimpsest.chapters.sau.profiles import PROFILES, Small
from palimpsest.chapters.sau.weights import apart, together
from palimpsest.chapters.shared.profiles import choose
from palimpsest.data import authors, sau_models
from palimpsest.data.questions import Questions
from palimpsest.nets import language
from palimpsest.nets.language import Encoded
from palimpsest.pruning import Masks
from palimpsest.training import seeds
from palimpsest.training.language import fit
from palimpsest.unlearning.language import stress

MAX_LENGTH = 96
RECOVERY_BATCH = 32


@cache
def tokenizer(vocabulary: int) -> PreTrainedTokenizerBase:
    """One for all seeds, from all texts of the shipped sets: names are words to every model, known or not."""
    sets = [authors.load(name) for name in authors.SETS]
    texts = [text for part in sets for text in (*part.question, *part.question_2, *part.answer, *part.paraphrased)]
    return language.tokenizer(texts, vocabulary)


@dataclass(frozen=True)
class Cohort:
    """One seed of one profile, for the verdict or for tuning; see `cohort.Cohort`."""

    setting: Small
    group: str
    seed: int

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return tokenizer(self.setting.vocabulary)

    @cached_property
    def parts(self) -> authors.AuthorSplit:
        return authors.split(self.seed)

    @property
    def forget(self) -> Questions:
        return self.parts.tuning if self.group == "tuning" else self.parts.forget

    @property
    def retain(self) -> Questions:
        """The authors that stay."""
        return self.parts.retain + (self.parts.forget if self.group == "tuning" else self.parts.tuning)

    def encode(self, questions: Questions, form: int = 1) -> Encoded:
        asked = questions.question if form == 1 else questions.question_2
        return language.encode(self.tokenizer, asked, questions.answer, MAX_LENGTH)

    @property
    def known(self) -> Questions:
        """All that the target has learnt but the forget set."""
        return self.retain + authors.load("real_authors") + authors.load("world_facts")

    def material(self, whose: str) -> Encoded:
        """What a model was trained on: both forms of every question it may know."""
        known = self.known + self.forget if whose == "target" else self.known
        both = known.question + known.question_2
        return language.encode(self.tokenizer, both, known.answer * 2, MAX_LENGTH)

    def untrained(self) -> nn.Module:
        s = self.setting
        sizes = {name: getattr(s, name) for name in ("hidden", "layers", "heads", "kv_heads", "intermediate")}
        return language.small_llama(s.vocabulary, seeds.derived(self.seed, "weights"), **sizes)

    def config(self, whose: str) -> dict:
        return {"profile": self.setting.name, "group": self.group, "seed": self.seed, "whose": whose}

    def load(self, whose: str, pruner: str = DENSE[0], sparsity: str = DENSE[1]) -> tuple[nn.Module, Masks | None]:
        """The "target" or the "oracle", dense or pruned, with its masks; shipped, from the cache, or made now. The
        model is the caller's own, the masks are shared."""
        model, masks = _loaded(self, whose, pruner, sparsity)
        return copy.deepcopy(model), masks

    def moving(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Everything is trained and forgets."""
        return dict(model.named_parameters())

    def prune(self, model: nn.Module, pruner: str, sparsity: str) -> Masks:
        """Prune in place by the recipe that every model of the experiment gets, on text that all of them know."""
        return prune(model, lambda: calibration(self), pruner, sparsity)

    def recover(self, model: nn.Module, masks: Masks, whose: str, pruner: str, sparsity: str) -> None:
        """Train what survives in the pruned matrices on what `whose` has learnt, where the recipe says so."""
        if (pruner, sparsity) not in self.setting.recovery:
            return
        epochs, lr = self.setting.recovery[pruner, sparsity]
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in masks.kept)
        sizes = {"lr": lr, "epochs": epochs, "batch_size": RECOVERY_BATCH, "masks": masks}
        drawn = seeds.derived(self.seed, "recovery")
        stress.relearn(model, self.material(whose), lambda: 0.0, seed=drawn, **sizes)
        model.requires_grad_(True)

    def references(self, pruner: str, sparsity: str) -> tuple[str, ...]:
        return ("target", "oracle")

    def pruned_after(self, model: nn.Module, pruner: str, sparsity: str) -> Iterator[tuple[str, nn.Module, Masks]]:
        """The forgetful dense model pruned, kind "A bare", and recovered on what the oracle has learnt: the forget
        set is gone by then."""
        after = copy.deepcopy(model)
        masks = self.prune(after, pruner, sparsity)
        yield "A bare", after, masks
        if (pruner, sparsity) == self.setting.judged_at:
            self.recover(after, masks, "oracle", pruner, sparsity)
            yield "A", after, masks


@cache
def _loaded(cohort: Cohort, whose: str, pruner: str, sparsity: str) -> tuple[nn.Module, Masks | None]:
    """Kept in memory: many runs begin at one pruned model."""
    model, recipe = cohort.untrained(), (pruner, sparsity)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}

    def fill(*recipe: str) -> dict[str, Tensor]:
        """Load what is stored of the model pruned by the recipe; returns its masks."""
        if cohort.setting.shipped:
            weights, kept = sau_models.load(sau_models.name(cohort.group, cohort.seed, whose, *recipe), shapes)
        elif recipe == DENSE:
            weights, kept = runs.artifact(train, cohort.config(whose)), {}
        else:
            names = {"pruner": recipe[0], "sparsity": recipe[1]}
            weights, kept = apart(runs.artifact(pruned, cohort.config(whose) | names))
        model.load_state_dict(weights, strict=False)
        return kept

    fill(*DENSE)
    if recipe == DENSE:
        return model, None
    if recipe not in cohort.setting.recovery:
        return model, cohort.prune(model, *recipe)
    return model, Masks(fill(*recipe))


@cache
def calibration(cohort: Cohort) -> Tensor:
    """Rows of tokens [calibration, width] from what target and oracle have both learnt, one answer after another."""
    material = cohort.material("oracle")
    order = torch.randperm(len(material), generator=seeds.generator(cohort.seed, "calibration"))
    return material.subset(order).packed(cohort.setting.calibration, cohort.setting.width)


def train(profile: str, group: str, seed: int, whose: str) -> dict[str, Tensor]:
    """The dense model that learnt everything ("target") or everything but the forget set ("oracle")."""
    cohort = Cohort(choose(profile, PROFILES), group, seed)
    model = cohort.untrained()
    fit(model, cohort.material(whose), cohort.setting.training, seed)
    return dict(model.named_parameters())


def pruned(profile: str, group: str, seed: int, whose: str, pruner: str, sparsity: str) -> dict[str, Tensor]:
    """The matrices of a dense model that pruning and recovery changed, with their masks, as `weights.together`."""
    cohort = Cohort(choose(profile, PROFILES), group, seed)
    model = cohort.untrained()
    model.load_state_dict(runs.artifact(train, cohort.config(whose)), strict=False)
    masks = cohort.prune(model, pruner, sparsity)
    cohort.recover(model, masks, whose, pruner, sparsity)
    named = dict(model.named_parameters())
    return together({name: named[name] for name in masks.kept}, masks.kept)


def stored(profile: str, group: str, seed: int, whose: str, pruner: str, sparsity: str) -> dict[str, Tensor]:
    """What is shipped of one of `models`, from the cache or made now."""
    config = {"profile": profile, "group": group, "seed": seed, "whose": whose}
    if (pruner, sparsity) == DENSE:
        return sau_models.packed(runs.artifact(train, config), {})
    return sau_models.packed(*apart(runs.artifact(pruned, config | {"pruner": pruner, "sparsity": sparsity})))


def keep(**config: str | int) -> None:
    """Make what `stored` gives, and keep it in the cache."""
    stored(**config)


def to_make(setting: Small) -> list[dict]:
    """The models to train before anything else, as arguments of `experiment.make`: none where they are shipped."""
    return [] if setting.shipped else models(setting)


def models(setting: Small) -> list[dict]:
    """The models that the experiment needs and that take training, as arguments of `experiment.make`."""
    seeds_of = [("tuning", seed) for seed in setting.tuning_seeds] + [("replication", seed) for seed in setting.seeds]
    return [
        {"group": group, "seed": seed, "whose": whose, "pruner": pruner, "sparsity": sparsity}
        for group, seed in seeds_of
        for pruner, sparsity in (DENSE, *setting.recovery)
        if group == "tuning" or seed in setting.seeds_at(pruner, sparsity)
        for whose in ("target", "oracle")
    ]
