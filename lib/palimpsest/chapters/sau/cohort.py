"""What the SAU experiment asks of its models and of who measures them, and which implementation a profile has.

The small Llama and SmolLM2 are two implementations of each: `small`, `small_measures`; `smollm2`, `smollm2_measures`.
"""

from collections.abc import Iterator
from typing import Protocol

from torch import nn

from palimpsest.chapters.sau import small, small_measures, smollm2, smollm2_measures
from palimpsest.chapters.sau.profiles import PROFILES, Setting, Small, SmolLM2
from palimpsest.chapters.shared.profiles import choose
from palimpsest.data.questions import Questions
from palimpsest.nets.language import Encoded
from palimpsest.pruning import Masks


class Cohort(Protocol):
    """One seed of a setting: its questions, its target and its oracle. `group` is "replication", or "tuning", whose
    forget set no replication forgets."""

    setting: Setting
    group: str
    seed: int

    @property
    def forget(self) -> Questions: ...

    @property
    def retain(self) -> Questions: ...

    @property
    def known(self) -> Questions:
        """What unlearning keeps: all that the target has learnt but the forget set."""

    def encode(self, questions: Questions, form: int = 1) -> Encoded:
        """Questions in their first or second form, and answers."""

    def load(self, whose: str, pruner: str, sparsity: str) -> tuple[nn.Module, Masks | None]:
        """A model of the caller's own, and the masks of a pruned one; `whose` is one of `references`."""

    def moving(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """What is trained and forgets, by name."""

    def prune(self, model: nn.Module, pruner: str, sparsity: str) -> Masks:
        """Prune in place, calibrated on what target and oracle have both learnt."""

    def references(self, pruner: str, sparsity: str) -> tuple[str, ...]:
        """Whose models are measured as they are: "target" and "oracle" at least."""

    def pruned_after(self, model: nn.Module, pruner: str, sparsity: str) -> Iterator[tuple[str, nn.Module, Masks]]:
        """What a dense model that has unlearned becomes when it is pruned: kind of the row, model, masks; "A bare" as
        pruning leaves it, "A" recovered. A model may change when the next is asked for."""


class Judge(Protocol):
    """Measures models of a cohort that are pruned by one recipe. Retention is that of retained authors, real authors
    and world facts: half of the questions is for validation, the other for the test."""

    def __init__(self, cohort: Cohort, pruner: str, sparsity: str): ...

    def look(self, model: nn.Module) -> dict[str, float]:
        """A point of a run's course: "forget", the forget set's mean answer probability, and "kept", the share of the
        target's validation retention that is left."""

    def measure(self, model: nn.Module, whose: str = "target") -> dict:
        """The columns of every model, from the test half; `whose` it is where it is a reference."""

    def examine(self, model: nn.Module, masks: Masks | None) -> dict:
        """The columns of the few models that are looked at closely. Leaves the model as it was."""


COHORTS = {Small: small.Cohort, SmolLM2: smollm2.Cohort}
TO_MAKE = {Small: small.to_make, SmolLM2: smollm2.to_make}
JUDGES = {Small: small_measures.Judge, SmolLM2: smollm2_measures.Judge}


def gather(profile: str, group: str, seed: int) -> Cohort:
    """The cohort of a profile. Raises ValueError for an unknown one."""
    setting = choose(profile, PROFILES)
    return COHORTS[type(setting)](setting, group, seed)


def to_make(setting: Setting) -> list[dict]:
    """The models to make before anything else, as arguments of `experiment.make`."""
    return TO_MAKE[type(setting)](setting)


def judge_of(cohort: Cohort, pruner: str, sparsity: str) -> Judge:
    """Who measures models of this recipe."""
    return JUDGES[type(cohort.setting)](cohort, pruner, sparsity)
