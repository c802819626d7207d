"""AdamW on what survives, with each pruned matrix's scales: the step of every method."""

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


class SurvivorAdamW:
    """AdamW; pruned entries and their moments keep every bit, and weight decay is for matrices only, as in
    transformers' trainer.

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
        factors, noted = {}, {}
        if self.update.scaling != "none" and pruned:
            lam = {n: lost_progress(gradients[n], masked[n], self.importance[n], self.update.eps) for n in pruned}
            factors = {n: scales(lam[n], self.importance[n], self.update.c_max) for n in pruned}
            noted["scale"] = 1 + torch.cat(list(lam.values())).median().item()
        gradients = gradients | masked
        norm = get_total_norm(gradients.values())
        if not norm.isfinite():
            raise TrainingDiverged(f"the norm of the gradient is {norm.item()}")
        clipped = (CLIP / (norm + 1e-6)).clamp(max=1)
        gradients = {n: g.mul_(clipped) if n in self.kept else g * clipped for n, g in gradients.items()}
        self.steps += 1
        rate, decay = lr, self.weight_decay
        if self.update.scaling == "boost" and pruned:
            noted["scale"] = factor = self._boost(pruned, gradients, factors)
            # The factor is for the direction alone: decay is multiplied by the rate too.
            rate, decay, factors = lr * factor, self.weight_decay / factor, {}
        self._masked(pruned, gradients, factors, lr=rate, weight_decay=decay)
        self._dense([n for n in gradients if n not in self.kept], gradients, lr)
        return {"norm": norm.item(), **noted}

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
