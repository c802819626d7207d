"""The models of the SAU experiment: a small language model that has memorised fictitious authors, its oracle, and
both pruned by one recipe.

Each seed draws its own authors to forget, its own starting weights and its own order of batches. The *target* is
trained on all authors but those held out, and on real facts. The *oracle* never saw the authors to forget. A pruned
target is compared with the oracle pruned in the same way, so that damage by pruning does not pass for forgetting.

Step sizes are tuned on seeds of their own and on authors that no verdict seed forgets.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from palimpsest import pruning, runs
from palimpsest.chapters.shared.profiles import choose
from palimpsest.data import authors, sau_models
from palimpsest.data.questions import Questions
from palimpsest.nets import language
from palimpsest.nets.language import Encoded
from palimpsest.pruning import Masks
from palimpsest.training.language import Recipe, fit

MAX_LENGTH = 96
DENSE = ("none", "0")
"""The recipe that prunes nothing."""


@dataclass(frozen=True)
class Setting:
    """Everything that a model depends on. `hidden` to `vocabulary` are the Llama's sizes; `calibration` counts rows
    of `width` tokens that the pruners see. `shipped`: dense models are read from `data/`, not trained."""

    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    recipe: Recipe
    unlearn_epochs: int
    unlearn_batch: int = 8
    hidden: int = 128
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 384
    vocabulary: int = 1536
    calibration: int = 64
    width: int = 32
    shipped: bool = False


PROFILES = {
    "smoke": Setting((0, 1), (1000,), Recipe(2, 3e-3), 1, hidden=32, layers=2, intermediate=64),
    "ci": Setting((100, 101, 102, 103), (1000, 1001), Recipe(12, 5e-3, 16), 4, shipped=True),
}


@cache
def tokenizer(vocabulary: int) -> PreTrainedTokenizerBase:
    """One for all seeds, from all texts of the shipped sets: names are words to every model, known or not."""
    sets = [authors.load(name) for name in authors.SETS]
    texts = [text for part in sets for text in (*part.question, *part.question_2, *part.answer, *part.paraphrased)]
    return language.tokenizer(texts, vocabulary)


@dataclass(frozen=True)
class Cohort:
    """One seed of one profile, for the verdict or for tuning."""

    profile: str
    group: str
    seed: int

    @property
    def setting(self) -> Setting:
        return choose(self.profile, PROFILES)

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

    def material(self, whose: str) -> Encoded:
        """What a model was trained on: both forms of every question it may know."""
        known = self.retain + authors.load("real_authors") + authors.load("world_facts")
        if whose == "target":
            known = known + self.forget
        both = known.question + known.question_2
        return language.encode(self.tokenizer, both, known.answer * 2, MAX_LENGTH)

    def untrained(self) -> nn.Module:
        s = self.setting
        sizes = {name: getattr(s, name) for name in ("hidden", "layers", "heads", "kv_heads", "intermediate")}
        return language.small_llama(s.vocabulary, self.seed, **sizes)

    def load(self, whose: str, pruner: str = DENSE[0], sparsity: str = DENSE[1]) -> tuple[nn.Module, Masks | None]:
        """The "target" or the "oracle", dense or pruned, with its masks; shipped, from the cache, or made now. The
        model is the caller's own, the masks are shared."""
        model, masks = _loaded(self, self.setting, whose, pruner, sparsity)
        return copy.deepcopy(model), masks


@cache
def _loaded(
    cohort: Cohort, setting: Setting, whose: str, pruner: str, sparsity: str
) -> tuple[nn.Module, Masks | None]:
    """Kept in memory: many runs begin at one pruned model."""
    config = {"group": cohort.group, "seed": cohort.seed, "whose": whose}
    model = cohort.untrained()
    if setting.shipped:
        weights = sau_models.load(**config)
    else:
        weights = runs.artifact(train, {"profile": cohort.profile, **config})
    model.load_state_dict(weights, strict=False)
    if pruner == DENSE[0]:
        return model, None
    return model, prune(model, cohort, whose, pruner, sparsity)


@cache
def calibration(cohort: Cohort, whose: str) -> Tensor:
    """Rows of tokens [calibration, width] from what a model was trained on, one answer after another."""
    material = cohort.material(whose)
    order = torch.randperm(len(material), generator=torch.Generator().manual_seed(cohort.seed))
    return material.subset(order).packed(cohort.setting.calibration, cohort.setting.width)


def prune(model: nn.Module, cohort: Cohort, whose: str, pruner: str, sparsity: str) -> Masks:
    """Prune in place by the recipe that every model of the experiment gets."""
    return prune_by(model, lambda: calibration(cohort, whose), pruner, sparsity)


def prune_by(
    model: nn.Module, draw: Callable[[], Tensor], pruner: str, sparsity: str, show: str | None = None
) -> Masks:
    """Prune in place by a recipe as the experiments name it; magnitude does not draw the calibration."""
    share = sparsity if ":" in sparsity else float(sparsity)
    ids = None if pruner == "magnitude" else draw()
    return pruning.prune(model, ids, method=pruner, sparsity=share, show=show)


def train(profile: str, group: str, seed: int, whose: str) -> dict[str, Tensor]:
    """The dense model that learnt everything ("target") or everything but the forget set ("oracle")."""
    cohort = Cohort(profile, group, seed)
    model = cohort.untrained()
    fit(model, cohort.material(whose), cohort.setting.recipe, seed)
    return dict(model.named_parameters())


def models(profile: str) -> list[dict]:
    """The dense models that the experiment needs, as configurations of `train`."""
    setting = choose(profile, PROFILES)
    wanted = [("tuning", seed, "target") for seed in setting.tuning_seeds]
    wanted += [("verdict", seed, whose) for seed in setting.seeds for whose in ("target", "oracle")]
    return [{"profile": profile, "group": g, "seed": s, "whose": w} for g, s, w in wanted]


def prepare(profile: str, group: str, seed: int, whose: str) -> None:
    """Train and keep a model, unless it is kept already."""
    runs.artifact(train, {"profile": profile, "group": group, "seed": seed, "whose": whose})
