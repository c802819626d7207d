"""The profiles of SAU: which models, how large, and which arms.

`smoke` and `ci` take the small Llama that has memorised the shipped authors (`Small`), `study` and `paper`
SmolLM2-135M on TOFU (`SmolLM2`).
"""

from dataclasses import dataclass, field, replace

from palimpsest.chapters.sau.arms import DENSE, LOSSES, PRUNED_FIRST, Arm, crossed
from palimpsest.training.language import Recipe

SPARSITIES = ("0.5", "0.7")
"""Where all arms of `ci` meet."""
JUDGED_AT = ("wanda", "0.5")
"""The recipe of pruning at which the small model's claims are judged that name one."""
MAIN = "NPO"
"""The loss at which arms are compared that differ in what moves."""

Values = tuple[float, float]
"""A peak step size, and the weight α of the retain loss."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What every profile decides.

    `training` is how the models learn what some of them forget; `recovery` (epochs, step size) how a model pruned by
    a recipe is trained on, on what it had learnt and with its zeros held. `arms` are run on all `seeds`; of `rivals`,
    which differ from arms in the loss alone, those whose loss did best for their letter while values were searched
    for; `asides` on the first `aside_seeds`. Each has its own values, which `search` finds on cohorts of
    `tuning_seeds`, from those of `starts` on, in at most `moves` moves. Arm A of the main loss is pruned by every
    recipe once it has unlearned; the first `examined_seeds` of references and of arms with the main loss are examined
    at the recipes `examined_at`; `overlap`: the masks of target and oracle are compared. `top` counts the last layers
    that train and forget; None is all of them. `nudge`: the share of their size by which the starting weights are off
    of a target that is trained once more; None trains none. `look_every`: updates between two looks at a run.
    `shipped`: models and the search are read from `data/`, not computed.
    """

    name: str
    arms: tuple[Arm, ...]
    rivals: tuple[Arm, ...] = ()
    asides: tuple[Arm, ...] = ()
    seeds: tuple[int, ...]
    aside_seeds: int = 6
    tuning_seeds: tuple[int, ...]
    training: Recipe
    recovery: dict[tuple[str, str], tuple[int, float]] = field(hash=False)
    starts: dict[str, Values] = field(hash=False)
    moves: int | None = None
    unlearn_epochs: int
    unlearn_batch: int
    judged_at: tuple[str, str]
    examined_at: tuple[tuple[str, str], ...]
    examined_seeds: int = 3
    overlap: bool
    top: int | None = None
    nudge: float | None = None
    look_every: int = 2
    shipped: bool = False

    @property
    def recipes(self) -> list[tuple[str, str]]:
        """The recipes of pruning that any arm uses."""
        arms = (*self.arms, *self.rivals, *self.asides)
        return list(dict.fromkeys(arm.start for arm in arms if arm.start != DENSE))

    @property
    def arms_examined(self) -> tuple[Arm, ...]:
        """Those with the main loss at the recipes that are examined, and arm A pruned afterwards."""
        dense = [arm for arm in self.arms if arm.letter == "A"]
        later = [replace(arm, pruner=p, sparsity=s) for arm in dense for p, s in self.examined_at]
        named = [arm for arm in (*self.arms, *later) if arm.loss == MAIN and not arm.again]
        return tuple(arm for arm in named if (arm.pruner, arm.sparsity) in self.examined_at)

    def seeds_at(self, pruner: str, sparsity: str) -> tuple[int, ...]:
        """The seeds of which models pruned by a recipe are needed."""
        whole = (pruner, sparsity) == DENSE or any(arm.start == (pruner, sparsity) for arm in self.arms)
        return self.seeds if whole else self.seeds[: self.aside_seeds]

    def start(self, arm: Arm) -> Values:
        """Where the search for the values of an arm begins."""
        lr, alpha = self.starts[arm.loss]
        return (SGD_START if arm.optimiser == "sgd" else lr), alpha


@dataclass(frozen=True, kw_only=True)
class Small(Setting):
    """`hidden` to `vocabulary` are the Llama's sizes; `calibration` counts rows of `width` tokens that the pruners
    see."""

    unlearn_batch: int = 16
    judged_at: tuple[str, str] = JUDGED_AT
    examined_at: tuple[tuple[str, str], ...] = (DENSE, JUDGED_AT)
    overlap: bool = True
    nudge: float | None = 1e-6
    hidden: int = 48
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 256
    vocabulary: int = 1024
    calibration: int = 64
    width: int = 32


SAU, MASKED = ("D", "wanda"), ("C",)
STARTS = {"NPO": (4e-3, 1.4), "GradDiff": (4e-3, 2.0), "SimNPO": (4e-3, 0.7), "RMU": (8e-3, 1.0)}
SGD_START = 1.0
"""From a pilot on seeds that nothing else rests on."""
RECOVERY = (3, 6e-3)


def _met(loss: str, updates: tuple[tuple[str, ...], ...], *recipes: tuple[str, str]) -> list[Arm]:
    """Every update (as in `PRUNED_FIRST`) at every recipe."""
    return [Arm(loss, letter, *where, *importance) for letter, *importance in updates for where in recipes]


SMOKE = Small(
    name="smoke",
    arms=(
        Arm(MAIN, "A"),
        Arm(MAIN, "E", sparsity="0.5"),
        *_met(MAIN, (("B",), MASKED, SAU, ("F",)), JUDGED_AT),
    ),
    rivals=(Arm("RMU", "A"),),
    asides=(Arm(MAIN, "D", *JUDGED_AT, "wanda", lost="gradient"),),
    seeds=(0, 1),
    tuning_seeds=(1000, 1001),
    training=Recipe(2, 3e-3),
    recovery={JUDGED_AT: (1, 3e-3)},
    starts=STARTS,
    moves=0,
    unlearn_epochs=1,
    hidden=32,
    intermediate=64,
)

CI = Small(
    name="ci",
    arms=(
        Arm(MAIN, "A"),
        *(Arm(MAIN, "E", sparsity=s) for s in SPARSITIES),
        *_met(MAIN, (MASKED, SAU), *(("wanda", s) for s in SPARSITIES)),
        *_met(MAIN, (("B",), ("F",)), JUDGED_AT),
        Arm(MAIN, "C", *JUDGED_AT, again=True),
    ),
    rivals=tuple(
        arm for loss in LOSSES if loss != MAIN for arm in (Arm(loss, "A"), *_met(loss, (("B",), SAU), JUDGED_AT))
    ),
    asides=(
        *_met(MAIN, (("D", "saliency"), ("D", "fisher")), JUDGED_AT),
        Arm(MAIN, "D", *JUDGED_AT, "wanda", lost="gradient"),
        *(Arm(MAIN, *fields, optimiser="sgd") for fields in (("C", *JUDGED_AT), ("D", *JUDGED_AT, "wanda"))),
        *(Arm(MAIN, *fields, frozen=True) for fields in (("A",), ("C", *JUDGED_AT))),
        *_met(MAIN, (MASKED, SAU), ("wanda", "2:4")),
    ),
    seeds=tuple(range(200, 224)),
    tuning_seeds=tuple(range(1000, 1005)),
    training=Recipe(20, 1e-2, 16),
    recovery={("wanda", sparsity): RECOVERY for sparsity in (*SPARSITIES, "2:4")},
    starts=STARTS,
    unlearn_epochs=6,
    shipped=True,
)

Rows = tuple[str, int, int]
"""A split of TOFU, and the first and the last (not included) of its questions that are taken."""


@dataclass(frozen=True, kw_only=True)
class SmolLM2(Setting):
    """`forget`, `tuning` and `examined` have wrong answers where TOFU gives them; `retain` are learnt and kept beside
    `examined` and `tuning`; `holdout` no model sees. `calibration` counts rows and the tokens in each. `facts` counts
    the questions about real authors and about the world in each half of retention; None takes all.
    """

    overlap: bool = False
    look_every: int = 7
    forget: Rows
    examined: Rows
    retain: tuple[Rows, ...]
    tuning: Rows
    holdout: Rows
    calibration: tuple[int, int]
    facts: int | None = None


PAPER = SmolLM2(
    name="paper",
    forget=("forget10_perturbed", 0, 400),
    examined=("retain_perturbed", 0, 400),
    retain=(("retain90", 800, 3200),),
    tuning=("retain90", 400, 800),
    holdout=("retain90", 3200, 3600),
    training=Recipe(5, 1e-4, 32),
    arms=(
        *crossed(
            LOSSES,
            (("wanda", "0.3"), ("wanda", "0.5"), ("wanda", "2:4"), ("sparsegpt", "0.5"), ("magnitude", "0.3")),
            PRUNED_FIRST,
        ),
        Arm(MAIN, "E", sparsity="0.3"),
        Arm(MAIN, "E", sparsity="0.5"),
    ),
    judged_at=("wanda", "0.3"),
    examined_at=(DENSE, ("wanda", "0.3")),
    starts={"NPO": (2e-5, 2.0), "GradDiff": (1e-5, 2.0), "SimNPO": (2e-5, 2.0), "RMU": (2e-5, 2.0)},
    moves=2,
    unlearn_epochs=10,
    unlearn_batch=32,
    seeds=(0, 1, 2),
    tuning_seeds=(0, 1, 2),
    calibration=(128, 512),
    recovery={("wanda", "0.3"): (1, 5e-5), ("sparsegpt", "0.5"): (2, 1e-4)},
)
"""TOFU whole, forget10, all layers: for a GPU."""

STUDY = replace(
    PAPER,
    name="study",
    forget=("forget05_perturbed", 0, 200),
    holdout=("forget10_perturbed", 0, 200),
    tuning=("retain90", 400, 600),
    retain=(("retain90", 600, 3600),),
    arms=(
        *crossed(
            ("NPO", "GradDiff", "SimNPO"),
            (("wanda", "0.3"), ("sparsegpt", "0.5")),
            (("B",), MASKED, SAU, ("F",)),
        ),
        Arm(MAIN, "E", sparsity="0.3"),
        Arm(MAIN, "E", sparsity="0.5"),
    ),
)
"""TOFU, forget05, all layers, with SAU's importance by Wanda alone: for a GPU."""

PROFILES: dict[str, Setting] = {setting.name: setting for setting in (SMOKE, CI, STUDY, PAPER)}
