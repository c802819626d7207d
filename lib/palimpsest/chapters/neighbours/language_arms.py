"""The models that the chapter compares: arms of the SAU chapter, and rivals taken at the same loss of utility."""

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from palimpsest.chapters.neighbours.profiles import SHARP, Sharp
from palimpsest.chapters.sau.arms import DENSE, Arm
from palimpsest.chapters.sau.claims import NAMES
from palimpsest.chapters.sau.cohort import judge_of
from palimpsest.chapters.sau.course import to_bar
from palimpsest.chapters.sau.measures import BAR
from palimpsest.chapters.sau.small import Cohort
from palimpsest.chapters.sau.weights import put_between, state
from palimpsest.data.questions import Questions
from palimpsest.training import seeds
from palimpsest.unlearning.language.evaluation import probability
from palimpsest.unlearning.language.inference import Intervened, Subjects
from palimpsest.unlearning.language.rivals import RIVALS


def forgetful(cohort: Cohort, rival: str, settings: dict[str, float]) -> tuple[nn.Module, float]:
    """The dense target made to forget by a rival of `RIVALS` with these settings, as far as `BAR` of its validation
    retention allows, and how far that is: all the way (1), or the share found by `BISECTIONS` halvings, of the
    intervention or of the straight line in the weights.

    What ECO takes for a retrained model's score is the target's own probability of answers about authors that no
    model has met."""
    judge, (model, _) = judge_of(cohort, *DENSE), cohort.load("target", *DENSE)
    moving = cohort.moving(model)
    first = state(moving)
    if rival == "ECO":
        settings = settings | {"goal": probability(model, cohort.encode(cohort.parts.holdout))}
    changed = replace(RIVALS[rival], **settings).apply(
        model,
        cohort.encode(cohort.forget),
        cohort.encode(cohort.known),
        subjects=subjects(cohort),
        seed=seeds.derived(cohort.seed, "rival"),
    )

    def kept() -> float:
        return judge.look(changed)["kept"]

    if kept() >= BAR:
        return changed, 1.0
    if isinstance(changed, Intervened):
        return changed, intervene(changed, kept)
    end = state(moving)
    return changed, to_bar(lambda way: put_between(moving, first, end, way), kept)


def intervene(changed: Intervened, kept: Callable[[], float]) -> float:
    """Make the intervention's share as large as `kept` stays at the bar."""

    def go(share: float) -> None:
        changed.decoder.share = share

    return to_bar(go, kept)


def subjects(cohort: Cohort) -> Subjects:
    """For each author to forget the tokens of the name, and those of an author who stays, each in turn."""

    def names(questions: Questions) -> list[list[int]]:
        authors = dict.fromkeys(questions.author)
        return [cohort.tokenizer(f" {name}", add_special_tokens=False).input_ids for name in authors]

    return list(zip(names(cohort.forget), names(cohort.retain), strict=False))


def name_of(arm: Arm) -> str:
    """What rows, tables and figures call an arm of the SAU chapter."""
    return SHARP if isinstance(arm, Sharp) else f"{arm.loss} {NAMES[arm.kind]}" if arm.start != DENSE else arm.loss
