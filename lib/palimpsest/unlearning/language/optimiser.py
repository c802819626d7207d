"""AdamW or SGD on what survives, with each pruned matrix's scales: the step of every method."""

import math

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim.adamw import adamw

from palimpsest.kernels import masked_adamw_, pack_mask
from palimpsest.training.loop import TrainingDiverged
from palimpsest.unlearning.language.task import Gradients
from palimpsest.unlearning.language.update import Update, lost_progress, scales

BETAS, EPS, CLIP = (0.9, 0.999), 1e-8, 1.0
"""The defaults of transformers' trainer, and so of open-unlearning."""
MOMENTS = ("exp_avg", "exp_avg_sq")


def adam(mean: Tensor, square: Tensor, gradient: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """(both moments after `gradient`, the direction of Adam's update number `step`, counted from 1); nothing is
    changed in place."""
    beta1, beta2 = BETAS
    mean, square = mean.lerp(gradient, 1 - beta1), square.lerp(gradient.square(), 1 - beta2)
    return mean, square, (mean / (1 - beta1**step)) / ((square / (1 - beta2**step)).sqrt() + EPS)


class Survivors:
    """AdamW, or SGD where the update says so; pruned entries keep every bit, and weight decay is for matrices only,
    as in transformers' trainer. The moments of pruned entries stay 0, or are those of a run without masks where the
    direction that such a run would take is asked for.

    parameters: what moves, by name; kept: bool masks of the pruned ones; importance: R of these, for the scalings
    that need it; state: the moments of each parameter by their names, as torch's optimisers keep them; steps: updates
    done.
    """

    def __init__(
        self,
        parameters: dict[str, Tensor],
        kept: dict[str, Tensor],
        importance: dict[str, Tensor],
        update: Update,
        weight_decay: float,
    ):
        self.parameters, self.kept, self.importance = parameters, kept, importance
        self.update, self.weight_decay = update, weight_decay
        self.state = {p: {kind: torch.zeros_like(p) for kind in MOMENTS} for p in parameters.values()}
        self.steps = 0
        # Bits save traffic on a GPU; on a CPU they would have to be unpacked.
        self._masks = {name: pack_mask(mask) if mask.is_cuda else mask for name, mask in kept.items()}

    @torch.no_grad()
    def step(self, gradients: Gradients, lr: float) -> dict[str, float]:
        """One update. Returns the "norm" of the masked gradient before clipping, and "scale": under "redistribute"
        the median over all rows of 1 + λ, a row's mean scale before c_max; under "boost" the factor. Raises
        TrainingDiverged, before anything moves, where the gradient is not finite."""
        pruned = [name for name in gradients if name in self.kept]
        # Masked before clipping: what pruned weights would have wanted must not shorten the step of the others.
        masked = {name: gradients[name] * self.kept[name] for name in pruned}
        norm = get_total_norm((gradients | masked).values())
        if not norm.isfinite():
            raise TrainingDiverged(f"the norm of the gradient is {norm.item()}")
        clipped = (CLIP / (norm + 1e-6)).clamp(max=1)
        self.steps += 1
        factors, noted = {}, {}
        if self.update.scaling != "none" and pruned:
            lam = {name: self._lost(name, gradients[name] * clipped) for name in pruned}
            factors = {n: scales(lam[n], self.importance[n], self.update.c_max) for n in pruned}
            noted["scale"] = 1 + torch.cat(list(lam.values())).median().item()
        gradients = {n: masked[n].mul_(clipped) if n in masked else g * clipped for n, g in gradients.items()}
        rate, decay = lr, self.weight_decay
        if self.update.scaling == "boost" and pruned:
            noted["scale"] = factor = self._boost(pruned, gradients, factors)
            # The factor is for the direction alone: decay is multiplied by the rate too.
            rate, decay, factors = lr * factor, self.weight_decay / factor, {}
        if self.update.optimiser == "sgd":
            self._descend(gradients, factors, lr)
        else:
            self._masked(pruned, gradients, factors, lr=rate, weight_decay=decay)
            self._dense([n for n in gradients if n not in self.kept], gradients, lr)
        return {"norm": norm.item(), **noted}

    def _lost(self, name: str, gradient: Tensor) -> Tensor:
        """λ of a pruned matrix; `gradient` is that of the whole matrix, clipped."""
        kept, importance = self.kept[name], self.importance[name]
        if self.update.lost == "gradient" or self.update.optimiser == "sgd":
            return lost_progress(gradient, gradient, kept, importance, self.update.eps)
        mean, square = self.state[self.parameters[name]].values()
        now, now_square, direction = adam(mean, square, gradient, self.steps)
        # The kernel leaves pruned entries of the moments alone: there is room for what they would be.
        mean.copy_(torch.where(kept, mean, now))
        square.copy_(torch.where(kept, square, now_square))
        return lost_progress(gradient, direction, kept, importance, self.update.eps)

    def _descend(self, gradients: Gradients, factors: dict[str, Tensor], lr: float) -> None:
        """W ← W − lr (c⊙g + decay·W) on what survives."""
        for name, gradient in gradients.items():
            parameter = self.parameters[name]
            step = gradient * factors[name] if name in factors else gradient
            if parameter.ndim >= 2:
                step = step.add(parameter, alpha=self.weight_decay)
            moved = parameter.sub(step, alpha=lr)
            parameter.copy_(torch.where(self.kept[name], moved, parameter) if name in self.kept else moved)

    def _held(self, names) -> list[list[Tensor]]:
        """The named parameters, and their moments."""
        params = [self.parameters[n] for n in names]
        return [params, *([self.state[p][kind] for p in params] for kind in MOMENTS)]

    def _masked(self, names, gradients, factors, *, lr, weight_decay, into=None):
        """The kernel's step on the pruned matrices, or (`into`) on stand-ins for them and for their moments."""
        params, *moments = into or self._held(names)
        masked_adamw_(
            params,
            [gradients[n] for n in names],
            *moments,
            [self._masks[n] for n in names],
            [factors[n] for n in names] if factors else None,
            step=self.steps,
            lr=lr,
            betas=BETAS,
            eps=EPS,
            weight_decay=weight_decay,
        )

    def _boost(self, names, gradients, factors) -> float:
        """‖c⊙u‖ / ‖u‖ over the pruned matrices, u the direction that Adam takes in this step."""
        plain, scaled = 0.0, 0.0
        for name in names:
            direction = torch.zeros_like(self.parameters[name])  # from zero, with rate 1, the kernel goes to −u
            moments = [[moment.clone()] for (moment,) in self._held([name])[1:]]
            self._masked([name], gradients, {}, lr=1.0, weight_decay=0.0, into=[[direction], *moments])
            plain += direction.square().sum(dtype=torch.float64).item()
            scaled += (direction * factors[name]).square().sum(dtype=torch.float64).item()
        return math.sqrt(scaled / plain) if plain else 1.0

    def _dense(self, names, gradients, lr):
        """torch's own step on the parameters that are not pruned."""
        (beta1, beta2), device = BETAS, next(iter(self.parameters.values())).device
        for matrices, decay in ((True, self.weight_decay), (False, 0.0)):
            chosen = [n for n in names if (self.parameters[n].ndim >= 2) == matrices]
            if not chosen:
                continue
            params, *moments = self._held(chosen)
            adamw(
                params,
                [gradients[n] for n in chosen],
                *moments,
                [],
                # The function counts the step itself.
                [torch.tensor(float(self.steps - 1), device=device) for _ in chosen],
                fused=True,
                amsgrad=False,
                maximize=False,
                beta1=beta1,
                beta2=beta2,
                lr=lr,
                weight_decay=decay,
                eps=EPS,
            )
