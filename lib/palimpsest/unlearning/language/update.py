"""Which weights move and how far: masks, and the redistribution of what pruned weights would have contributed.

SAU (arXiv 2602.00577), re-implemented from the abstract. Stated by the paper: gradients are masked, so that updates
go to surviving weights; an importance-aware redistribution compensates for the pruned ones; the two are decoupled.
Everything else here is our reading.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palimpsest.checks import require_choice, require_number
from palimpsest.pruning import Masks
from palimpsest.pruning.decoder import Layer, decoder_layers, require_linear

CHOICES = {
    "scaling": ("none", "redistribute", "boost"),
    "importance": ("wanda", "saliency", "fisher"),
    "lost": ("direction", "gradient"),
    "optimiser": ("adamw", "sgd"),
    "trainable": ("all", "linear"),
}


@dataclass(frozen=True)
class Update:
    """Attributes:
    masks: what survives of each pruned matrix; the rest keeps every bit. None: nothing is pruned.
    scaling: "none" only masks; "redistribute" (SAU) multiplies the direction of a surviving weight, after Adam, by
        its c of `redistribution`; "boost" is the control that multiplies the directions of all weights of pruned
        matrices by one number per step, so that they move as far as "redistribute" would move them.
    importance: R of `redistribution`, computed once from the model as it was given (`importance.importances`).
    lost: what a row is taken to have lost by pruning: progress u⊙g along the "direction" u that the optimiser would
        have taken without a mask, or g⊙g, along the "gradient" itself. Under SGD both are one.
    c_max: the largest c; eps: keeps λ finite where the gradient vanishes on a row's survivors. It has the unit of a
        squared gradient and must be far below one, or λ shrinks: a memorised answer's gradients are of 1e-5.
    optimiser: "adamw", or "sgd" without momentum: the control in which the step is the gradient.
    trainable: "all" parameters move, or only the "linear" matrices inside the decoder's layers.
    top: only parameters of the last `top` layers move; None: of all of them, and embeddings and the last norm.
    moving: of these, only those whose whole name this regular expression matches; None: all.
    """

    masks: Masks | None = None
    scaling: str = "none"
    importance: str = "wanda"
    lost: str = "direction"
    c_max: float = 10.0
    eps: float = 1e-30
    optimiser: str = "adamw"
    trainable: str = "all"
    top: int | None = None
    moving: str | None = None

    def __post_init__(self):
        for name, allowed in CHOICES.items():
            require_choice(name, getattr(self, name), allowed)
        if self.scaling != "none" and self.masks is None:
            raise ValueError(f"masks: got None, want those of the pruned model for scaling {self.scaling!r}")
        if self.scaling == "boost" and self.optimiser == "sgd":
            raise ValueError("optimiser: got 'sgd' for scaling 'boost', want 'adamw', whose directions it measures")
        require_number("c_max", self.c_max, above=1)
        require_number("eps", self.eps)
        if self.moving is not None:
            try:
                re.compile(self.moving)
            except (re.error, TypeError) as error:
                raise ValueError(f"moving: got {self.moving!r}, want a regular expression: {error}") from error

    def moves(self, name: str) -> bool:
        """Whether the parameter of this name may move, by `moving`."""
        return self.moving is None or re.fullmatch(self.moving, name) is not None


DENSE = Update()
"""Every parameter moves."""


def layers_in_reach(model: nn.Module, update: Update) -> list[Layer]:
    """The last `update.top` decoder layers, or all. Raises ValueError where there are fewer."""
    layers = decoder_layers(model)
    if update.top is None:
        return layers
    if isinstance(update.top, bool) or update.top not in range(1, len(layers) + 1):
        raise ValueError(f"top: got {update.top!r}, want 1 to {len(layers)} layers")
    return layers[-update.top :]


def movable(model: nn.Module, update: Update) -> dict[str, nn.Parameter]:
    """The parameters that move, by name; tied ones once. Raises ValueError for more layers than there are, where none
    moves, and where "linear" would leave much behind (`pruning.decoder.require_linear`)."""
    layers = layers_in_reach(model, update)
    if update.trainable == "linear":
        require_linear(model)
        chosen = [linear.weight for layer in layers for linear in layer.linears.values()]
    elif update.top is not None:
        chosen = [p for layer in layers for p in layer.module.parameters()]
    else:
        chosen = list(model.parameters())
    inside = {id(p) for p in chosen}
    found = {name: p for name, p in model.named_parameters() if id(p) in inside and update.moves(name)}
    if not found:
        names = [name for name, p in model.named_parameters() if id(p) in inside]
        raise ValueError(f"moving: got {update.moving!r}, which matches none of the names, {names[-1]!r} among them")
    return found


def lost_progress(grad: Tensor, direction: Tensor, kept: Tensor, importance: Tensor, eps: float) -> Tensor:
    """λ_i = Σ_j (1 − M_ij) u_ij g_ij / (Σ_j M_ij R_ij u_ij g_ij + eps), [rows]: per unit of R, what row i lost by
    pruning; u is the direction of a step without a mask, the gradient g itself for the gradient's.

    0 where either sum is not positive, as only a direction other than g can have it: a row that would have gone
    uphill has lost nothing, and one whose survivors go uphill makes up for nothing by going farther."""
    progress = grad * direction
    # Filled, not multiplied: what overflows beside the mask would make 0 · ∞ of it.
    lost = progress.masked_fill(kept, 0).sum(1)
    held = torch.linalg.vecdot(progress.masked_fill(~kept, 0), importance)
    # λ may overflow where the survivors' gradients vanish; infinity times an importance of 0 would be NaN.
    lam = (lost / (held + eps)).clamp(min=0, max=torch.finfo(grad.dtype).max)
    return torch.where(held < 0, 0, lam)


def scales(lam: Tensor, importance: Tensor, c_max: float) -> Tensor:
    """c_ij = min(1 + λ_i R_ij, c_max), [rows, columns]."""
    return (importance * lam[:, None]).add_(1).clamp_(max=c_max)


def redistribution(grad: Tensor, kept: Tensor, importance: Tensor, c_max: float, eps: float) -> Tensor:
    """The factor c of every weight of a pruned matrix, in the gradient's shape and dtype.

    With g the gradient of the whole matrix, M its mask and R the importance of its survivors, all [rows, columns] and
    a row the weights of one output: λ_i as in `lost_progress` with u = g, c_ij as in `scales`. Unclipped and for
    eps → 0,
    Σ_j M_ij c_ij g_ij² = Σ_j g_ij²: to first order a step along M⊙c⊙g lowers the loss as much as one along g, which
    pruned weights cannot take. c does not depend on the gradient's scale, so clipping before or after is the same.

    AdamW cancels a factor on the gradient; so c belongs on its direction, which is what `unlearn` does.

    Args:
        grad: float32 or float64. kept: bool, True where a weight survives. importance: at least 0, read where a
            weight survives only. c_max: at least 1. eps: above 0.

    Raises ValueError for unequal shapes, a grad that is no matrix, or a mask that is not bool.
    """
    if grad.ndim != 2 or kept.shape != grad.shape or importance.shape != grad.shape or kept.dtype != torch.bool:
        raise ValueError(
            f"grad, kept, importance: got shapes {list(grad.shape)}, {list(kept.shape)}, {list(importance.shape)} "
            f"and a mask of {kept.dtype}; want three [rows, columns] and a bool mask"
        )
    return scales(lost_progress(grad, grad, kept, importance, eps), importance, c_max)
