"""What the SAU chapter compares: arms, in the letters of its protocol, losses, and recipes of pruning.

A dense unlearning, then pruning (U→P); B pruning, then unlearning of all weights, then pruning again (P→U); C
pruning, then unlearning of surviving weights; D the same with SAU's redistribution; E a dense model of which a random
share of the weights may move; F arm C with every step as long as D's would have been.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace

from torch import Tensor, nn

from palimpsest import pruning
from palimpsest.pruning import Masks
from palimpsest.training import seeds
from palimpsest.unlearning.language import NPO, RMU, GradDiff, Objective, SimNPO, Update

DENSE = ("none", "0")
"""The recipe (pruner, sparsity) that prunes nothing."""
KEYS = ("loss", "kind", "pruner", "sparsity")
"""The columns by which rows name an arm."""
IMPORTANCES = ("wanda", "saliency", "fisher")
"""By what SAU redistributes."""
PRUNED_FIRST = (("B",), ("C",), *(("D", importance) for importance in IMPORTANCES), ("F",))
"""The updates of a pruned model: a letter, and for D the importance."""
LOSSES: dict[str, Objective] = {
    "GradDiff": GradDiff(),
    "NPO": NPO(per_token=True, beta=1.0),
    "SimNPO": SimNPO(gamma=1.0),
    "RMU": RMU(steering=8.0),
}
"""What lowers the forget answers, each beside the mean loss of a retain token (RMU: its own) with a weight of its
own. NPO takes means over tokens, as the retain loss does: summed, it outvotes it by the length of an answer; β is
then per token. SimNPO's γ is 1, because the retain loss has the weight here."""


def kind_of(letter: str, importance: str | None = None) -> str:
    """What the column "kind" of rows calls an arm: its letter, for D with the importance."""
    return letter if importance is None else f"{letter} {importance}"


@dataclass(frozen=True)
class Arm:
    """A loss, an arm by its letter, and the recipe of pruning; for E the pruner is "none" and the sparsity the share
    that may not move. D alone has an importance. `lost` and `optimiser` are those of `Update`; `frozen`: embeddings
    and norms stay; `again`: its batches are drawn anew, and its values are searched for with these: a second name of
    the same arm, whose distance is the noise that no comparison can go below. Raises ValueError for an importance
    elsewhere, and D without."""

    loss: str
    letter: str
    pruner: str = DENSE[0]
    sparsity: str = DENSE[1]
    importance: str | None = None
    lost: str = "direction"
    optimiser: str = "adamw"
    frozen: bool = False
    again: bool = False

    def __post_init__(self):
        if (self.letter == "D") != (self.importance is not None):
            raise ValueError(
                f"importance: got {self.importance!r} for arm {self.letter}, want one for D, none elsewhere"
            )

    @property
    def kind(self) -> str:
        others = {"by gradient": self.lost == "gradient", "SGD": self.optimiser == "sgd"}
        others |= {"frozen": self.frozen, "again": self.again}
        return ", ".join([kind_of(self.letter, self.importance), *(name for name, here in others.items() if here)])

    @property
    def key(self) -> tuple[str, str, str, str]:
        """The values of `KEYS`."""
        return self.loss, self.kind, self.pruner, self.sparsity

    @property
    def row(self) -> dict[str, str]:
        """The columns `KEYS`."""
        return dict(zip(KEYS, self.key, strict=True))

    @property
    def fields(self) -> dict:
        """What makes it again."""
        return asdict(self)

    @property
    def start(self) -> tuple[str, str]:
        """The recipe of the models that the arm starts from and is compared with."""
        return DENSE if self.letter == "E" else (self.pruner, self.sparsity)

    def objective(self, alpha: float) -> Objective:
        """The loss with the weight `alpha` of its retain part."""
        return replace(LOSSES[self.loss], alpha=alpha)

    def update(self, masks: Masks | None, model: nn.Module, seed: int, top: int | None) -> Update:
        """What may move, and how far: of the last `top` layers, or of all."""
        common = {"top": top, "optimiser": self.optimiser, "trainable": "linear" if self.frozen else "all"}
        if self.letter == "E":
            free = 1 - float(self.sparsity)
            return Update(pruning.random_masks(model, free, seeds.derived(seed, "mask")), **common)
        if self.letter == "D":
            return Update(masks, "redistribute", self.importance, self.lost, **common)
        if self.letter in ("A", "B"):
            return Update(**common)
        return Update(masks, "boost" if self.letter == "F" else "none", lost=self.lost, **common)


def crossed(
    losses: Iterable[str], recipes: Iterable[tuple[str, str]], updates: Iterable[tuple[str, ...]]
) -> tuple[Arm, ...]:
    """Arm A of every loss, and every update (as in `PRUNED_FIRST`) of it at every recipe."""
    return tuple(
        arm
        for loss in losses
        for arm in (
            Arm(loss, "A"),
            *(Arm(loss, letter, *where, *importance) for where in recipes for letter, *importance in updates),
        )
    )


def prune(model: nn.Module, draw: Callable[[], Tensor], pruner: str, sparsity: str, show: str | None = None) -> Masks:
    """Prune in place by a recipe; magnitude does not draw the calibration."""
    share = sparsity if ":" in sparsity else float(sparsity)
    ids = None if pruner == "magnitude" else draw()
    return pruning.prune(model, ids, method=pruner, sparsity=share, show=show)
