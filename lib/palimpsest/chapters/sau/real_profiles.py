"""How large profile `full` of SAU is, and its slice for one CPU core."""

from dataclasses import dataclass

from palimpsest.training.language import Recipe

Rows = tuple[str, int, int]
"""A split of TOFU, and the first and the last (not included) of its questions that are taken."""


@dataclass(frozen=True)
class Setting:
    """Everything that a model depends on, and how far it is examined.

    `forget`, `tuning` and `examined` have wrong answers where TOFU gives them; `retain` are learnt and kept beside
    `examined` and `tuning`; `holdout` no model sees. `top` counts the last layers that train and forget; None trains
    all. `recovery` (epochs, step size) is how a model pruned by a recipe is trained on, on what it had learnt and
    with its zeros held. `grid` is tuned on the authors `tuning`, for every loss and kind of arm, with `tuned_at` the
    recipe of the pruned ones. `facts` counts the questions about real authors and about the world in each half of
    retention; None takes all.
    """

    forget: Rows
    examined: Rows
    retain: tuple[Rows, ...]
    tuning: Rows
    holdout: Rows
    recipe: Recipe
    recipes: tuple[tuple[str, str], ...]
    tuned_at: tuple[str, str]
    losses: tuple[str, ...]
    kinds: tuple[str, ...]
    grid: tuple[float, ...]
    unlearn_epochs: int
    unlearn_batch: int
    seeds: tuple[int, ...]
    calibration: tuple[int, int]
    recovery: dict[tuple[str, str], tuple[int, float]]
    top: int | None = None
    facts: int | None = None


FULL = Setting(
    forget=("forget10_perturbed", 0, 400),
    examined=("retain_perturbed", 0, 400),
    retain=(("retain90", 800, 3200),),
    tuning=("retain90", 400, 800),
    holdout=("retain90", 3200, 3600),
    recipe=Recipe(5, 1e-4, 32),
    recipes=(("wanda", "0.3"), ("wanda", "0.5"), ("wanda", "2:4"), ("sparsegpt", "0.5"), ("magnitude", "0.3")),
    tuned_at=("wanda", "0.3"),
    losses=("NPO", "GradDiff", "SimNPO"),
    kinds=("B", "C", "D wanda", "D saliency", "D fisher", "F"),
    grid=(5e-6, 1e-5, 2e-5, 4e-5),
    unlearn_epochs=10,
    unlearn_batch=32,
    seeds=(0, 1, 2),
    calibration=(128, 512),
    recovery={("sparsegpt", "0.5"): (2, 1e-4)},
)
"""TOFU whole, forget10, all layers: for a GPU."""

FULL_CPU = Setting(
    forget=("forget01_perturbed", 0, 40),
    examined=("retain_perturbed", 0, 40),
    retain=(),
    tuning=("forget05_perturbed", 0, 40),
    holdout=("forget10_perturbed", 0, 20),
    recipe=Recipe(8, 1e-3, 8),
    recipes=(("wanda", "0.3"), ("sparsegpt", "0.5")),
    tuned_at=("wanda", "0.3"),
    losses=("NPO", "GradDiff"),
    kinds=("B", "C", "D wanda"),
    grid=(3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
    unlearn_epochs=4,
    unlearn_batch=4,
    seeds=(0,),
    calibration=(32, 128),
    recovery={("sparsegpt", "0.5"): (2, 3e-4)},
    top=4,
    facts=25,
)
"""A slice for one CPU core. What is shortened against `FULL`:

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

PROFILES = {"full": FULL, "full-cpu": FULL_CPU}
