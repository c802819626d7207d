"""The models of profiles `smoke` and `ci`: a small Llama that has memorised fictitious authors, its oracle, and both
pruned by one recipe.

Each seed draws its own authors to forget, its own starting weights and its own order of batches. The *target* is
trained on all authors but those held out, and on real facts. The *oracle* never saw the authors to forget. A pruned
target is compared with the oracle pruned in the same way, so that damage by pruning does not pass for forgetting.

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
from palimpsest.chapters.shared.profiles import choose
from palimpsest.data import authors, sau_models
from palimpsest.data.questions import Questions
from palimpsest.nets import language
from palimpsest.nets.language import Encoded
from palimpsest.pruning import Masks
from palimpsest.training import seeds
from palimpsest.training.language import fit

MAX_LENGTH = 96


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
        return language.small_llama(s.vocabulary, seeds.derived(self.seed, "weights"), **sizes)

    def trained(self, whose: str) -> dict[str, Tensor]:
        """The parameters of a dense model, by name; from the cache or trained now."""
        return runs.artifact(
            train, {"profile": self.setting.name, "group": self.group, "seed": self.seed, "whose": whose}
        )

    def make(self, whose: str, pruner: str, sparsity: str) -> None:
        """Train a dense model. Pruned ones are not kept: pruning takes a moment."""
        self.trained(whose)

    def load(self, whose: str, pruner: str = DENSE[0], sparsity: str = DENSE[1]) -> tuple[nn.Module, Masks | None]:
        """The "target" or the "oracle", dense or pruned, with its masks; shipped, from the cache, or made now. The
        model is the caller's own, the masks are shared."""
        model, masks = _loaded(self, whose, pruner, sparsity)
        return copy.deepcopy(model), masks

    def moving(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Everything is trained and forgets."""
        return dict(model.named_parameters())

    def prune(self, model: nn.Module, whose: str, pruner: str, sparsity: str) -> Masks:
        """Prune in place by the recipe that every model of the experiment gets."""
        return prune(model, lambda: calibration(self, whose), pruner, sparsity)

    def references(self, pruner: str, sparsity: str) -> tuple[str, ...]:
        return ("target", "oracle")

    def pruned_after(self, model: nn.Module, pruner: str, sparsity: str) -> Iterator[tuple[str, nn.Module, Masks]]:
        """The forgetful dense model pruned on what the oracle has learnt: the forget set is gone by then."""
        after = copy.deepcopy(model)
        yield "A", after, self.prune(after, "oracle", pruner, sparsity)


@cache
def _loaded(cohort: Cohort, whose: str, pruner: str, sparsity: str) -> tuple[nn.Module, Masks | None]:
    """Kept in memory: many runs begin at one pruned model."""
    model = cohort.untrained()
    shipped = cohort.setting.shipped
    weights = sau_models.load(cohort.group, cohort.seed, whose) if shipped else cohort.trained(whose)
    model.load_state_dict(weights, strict=False)
    if (pruner, sparsity) == DENSE:
        return model, None
    return model, cohort.prune(model, whose, pruner, sparsity)


@cache
def calibration(cohort: Cohort, whose: str) -> Tensor:
    """Rows of tokens [calibration, width] from what a model was trained on, one answer after another."""
    material = cohort.material(whose)
    order = torch.randperm(len(material), generator=seeds.generator(cohort.seed, "calibration"))
    return material.subset(order).packed(cohort.setting.calibration, cohort.setting.width)


def train(profile: str, group: str, seed: int, whose: str) -> dict[str, Tensor]:
    """The dense model that learnt everything ("target") or everything but the forget set ("oracle")."""
    cohort = Cohort(choose(profile, PROFILES), group, seed)
    model = cohort.untrained()
    fit(model, cohort.material(whose), cohort.setting.training, seed)
    return dict(model.named_parameters())


def to_make(setting: Small) -> list[dict]:
    """The models to train before anything else, as arguments of `experiment.make`: none where they are shipped."""
    return [] if setting.shipped else models(setting)


def models(setting: Small) -> list[dict]:
    """The dense models that the experiment needs, as arguments of `experiment.make`."""
    wanted = [("tuning", seed, "target") for seed in setting.tuning_seeds]
    wanted += [("verdict", seed, whose) for seed in setting.seeds for whose in ("target", "oracle")]
    return [{"group": g, "seed": s, "whose": w, "pruner": DENSE[0], "sparsity": DENSE[1]} for g, s, w in wanted]
