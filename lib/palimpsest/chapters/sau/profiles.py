"""The profiles of SAU: which models, how large, and which arms.

`smoke` and `ci` take the small Llama that has memorised the shipped authors (`Small`), `study` and `paper`
SmolLM2-135M on TOFU (`SmolLM2`).
"""

from dataclasses import dataclass, field, replace

from palimpsest.chapters.sau.arms import DENSE, PRUNED_FIRST, Arm, crossed
from palimpsest.training.language import Recipe

SPARSITIES = ("0.5", "0.7")
"""Where all arms of `ci` meet. A, C and D are run at 30 % and 2:4 too."""
TUNED_AT = ("wanda", "0.5")
"""The recipe of pruning at which pruned arms of the small model are tuned, and its claims are judged."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What every profile decides.

    `training` is how the models learn what some of them forget. `grid` holds the peak step sizes that tuning
    compares, the same for every arm, on cohorts of `tuning_seeds`; pruned arms are tuned at the recipe `tuned_at`,
    and where `tuned_with` names an importance all of SAU's with this one. Arm A of the losses `pruned_after` is
    pruned by every recipe once it has unlearned; `zeros_after`: pruned weights that are not zero are counted there
    too. References and NPO's arms are examined at the recipes `examined_at`; `overlap`: the masks of target and
    oracle are compared. `top` counts the last layers that train and forget; None is all of them. `nudge`: the share
    of their size by which the starting weights are off of a target that is trained once more; None trains none.
    """

    name: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    training: Recipe
    grid: tuple[float, ...]
    tuned_at: tuple[str, str]
    tuned_with: str | None
    unlearn_epochs: int
    unlearn_batch: int
    examined_at: tuple[tuple[str, str], ...]
    pruned_after: tuple[str, ...]
    zeros_after: bool
    overlap: bool
    top: int | None = None
    nudge: float | None = None

    @property
    def recipes(self) -> list[tuple[str, str]]:
        """The recipes of pruning that any arm uses."""
        return list(dict.fromkeys(arm.start for arm in self.arms if arm.start != DENSE))

    def tuned_as(self, arm: Arm) -> Arm:
        """The arm whose step size this one takes."""
        pruner, sparsity = self.tuned_at
        if arm.letter == "E":
            return replace(arm, sparsity=sparsity)
        if arm.start == DENSE:
            return arm
        importance = self.tuned_with if arm.letter == "D" and self.tuned_with else arm.importance
        return replace(arm, pruner=pruner, sparsity=sparsity, importance=importance)


@dataclass(frozen=True, kw_only=True)
class Small(Setting):
    """`hidden` to `vocabulary` are the Llama's sizes; `calibration` counts rows of `width` tokens that the pruners
    see. `shipped`: dense models are read from `data/`, not trained."""

    grid: tuple[float, ...] = (4e-4, 8e-4, 1.6e-3, 3.2e-3)
    tuned_at: tuple[str, str] = TUNED_AT
    tuned_with: str | None = "wanda"
    unlearn_batch: int = 8
    examined_at: tuple[tuple[str, str], ...] = (DENSE, TUNED_AT)
    pruned_after: tuple[str, ...] = ("NPO",)
    zeros_after: bool = False
    overlap: bool = True
    nudge: float | None = 1e-6
    hidden: int = 128
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 384
    vocabulary: int = 1536
    calibration: int = 64
    width: int = 32
    shipped: bool = False


SAU, MASKED = ("D", "wanda"), ("C",)


def _met(loss: str, updates: tuple[tuple[str, ...], ...], *recipes: tuple[str, str]) -> list[Arm]:
    """Every update (as in `PRUNED_FIRST`) at every recipe."""
    return [Arm(loss, letter, *where, *importance) for letter, *importance in updates for where in recipes]


SMOKE = Small(
    name="smoke",
    arms=(
        Arm("NPO", "A"),
        Arm("NPO", "E", sparsity="0.5"),
        *_met("NPO", (("B",), MASKED, SAU, ("F",)), TUNED_AT),
    ),
    seeds=(0, 1),
    tuning_seeds=(1000,),
    training=Recipe(2, 3e-3),
    unlearn_epochs=1,
    hidden=32,
    layers=2,
    intermediate=64,
)

CI = Small(
    name="ci",
    arms=(
        Arm("NPO", "A"),
        *(Arm("NPO", "E", sparsity=s) for s in SPARSITIES),
        *_met("NPO", (("B",), MASKED, SAU, ("F",)), *(("wanda", s) for s in SPARSITIES)),
        *_met("NPO", (MASKED, SAU), ("wanda", "0.3"), ("wanda", "2:4")),
        *_met("NPO", (MASKED, SAU), ("sparsegpt", "0.5")),
        *_met("NPO", (("D", "saliency"), ("D", "fisher")), TUNED_AT),
        Arm("GradDiff", "A"),
        *_met("GradDiff", (MASKED, SAU), TUNED_AT),
    ),
    seeds=(100, 101, 102, 103),
    tuning_seeds=(1000, 1001),
    training=Recipe(12, 5e-3, 16),
    unlearn_epochs=4,
    shipped=True,
)

Rows = tuple[str, int, int]
"""A split of TOFU, and the first and the last (not included) of its questions that are taken."""


@dataclass(frozen=True, kw_only=True)
class SmolLM2(Setting):
    """`forget`, `tuning` and `examined` have wrong answers where TOFU gives them; `retain` are learnt and kept beside
    `examined` and `tuning`; `holdout` no model sees. `calibration` counts rows and the tokens in each. `recovery`
    (epochs, step size) is how a model pruned by a recipe is trained on, on what it had learnt and with its zeros
    held. `facts` counts the questions about real authors and about the world in each half of retention; None takes
    all.
    """

    tuned_with: str | None = None
    zeros_after: bool = True
    overlap: bool = False
    forget: Rows
    examined: Rows
    retain: tuple[Rows, ...]
    tuning: Rows
    holdout: Rows
    calibration: tuple[int, int]
    recovery: dict[tuple[str, str], tuple[int, float]] = field(hash=False)
    facts: int | None = None


PAPER = SmolLM2(
    name="paper",
    forget=("forget10_perturbed", 0, 400),
    examined=("retain_perturbed", 0, 400),
    retain=(("retain90", 800, 3200),),
    tuning=("retain90", 400, 800),
    holdout=("retain90", 3200, 3600),
    training=Recipe(5, 1e-4, 32),
    arms=crossed(
        ("NPO", "GradDiff", "SimNPO"),
        (("wanda", "0.3"), ("wanda", "0.5"), ("wanda", "2:4"), ("sparsegpt", "0.5"), ("magnitude", "0.3")),
        PRUNED_FIRST,
    ),
    tuned_at=("wanda", "0.3"),
    examined_at=(("wanda", "0.3"),),
    pruned_after=("NPO", "GradDiff", "SimNPO"),
    grid=(5e-6, 1e-5, 2e-5, 4e-5),
    unlearn_epochs=10,
    unlearn_batch=32,
    seeds=(0, 1, 2),
    tuning_seeds=(0, 1, 2),
    calibration=(128, 512),
    recovery={("sparsegpt", "0.5"): (2, 1e-4)},
)
"""TOFU whole, forget10, all layers: for a GPU."""

STUDY = SmolLM2(
    name="study",
    forget=("forget01_perturbed", 0, 40),
    examined=("retain_perturbed", 0, 40),
    retain=(),
    tuning=("forget05_perturbed", 0, 40),
    holdout=("forget10_perturbed", 0, 20),
    training=Recipe(8, 1e-3, 8),
    arms=crossed(("NPO", "GradDiff"), (("wanda", "0.3"), ("sparsegpt", "0.5")), (("B",), MASKED, SAU)),
    tuned_at=("wanda", "0.3"),
    examined_at=(("wanda", "0.3"),),
    pruned_after=("NPO", "GradDiff"),
    grid=(3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
    unlearn_epochs=4,
    unlearn_batch=4,
    seeds=(0,),
    tuning_seeds=(0,),
    calibration=(32, 128),
    recovery={("sparsegpt", "0.5"): (2, 3e-4)},
    top=4,
    facts=25,
)
"""A slice for one CPU core. What is shortened against `PAPER`:

- 2 authors to forget (TOFU's forget01: 40 questions, the fewest with which forget quality has power), 2 examined
  retained ones and 2 for tuning, for 200 authors; the model is fine-tuned on these 120 questions, 8 epochs;
- top-layers mode: only the last 4 of 30 layers are trained and forget; the others are the published model's, pruned;
- one seed: intervals are bootstraps over the 40 questions, and say nothing about another seed or other authors;
- NPO and GradDiff only, at Wanda 30 % and SparseGPT 50 %, the second recovered by 2 epochs and still degraded;
- arms A to D, and of SAU's importances Wanda's alone;
- at most 4 epochs of unlearning in batches of 4, for 10 in batches of 32;
- retention from 25 questions about real authors and 25 about the world, for 50 and 58, in each half;
- 4,096 calibration tokens for 65,536.
"""

PROFILES: dict[str, Setting] = {setting.name: setting for setting in (SMOKE, CI, STUDY, PAPER)}
