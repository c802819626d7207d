"""Neuron Adjust: skill unlearning by shifted pre-activations (Li, Sun and Weng 2025, arXiv 2503.21730)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palimpsest.checks import require_number
from palimpsest.nets.language import Encoded
from palimpsest.pruning.decoder import decoder_layers
from palimpsest.unlearning.language.inference import Intervened, Intervention, Rival, counted, hidden_of


@dataclass(frozen=True)
class NeuronAdjust(Rival):
    """The pre-activation x of a feed-forward neuron is taken for normal, N(μ_f, σ_f) on the forget and N(μ_r, σ_r) on
    the retain set. Of all neurons the `part` with the largest μ_f − μ_r is adjusted: where x is likelier under the
    first, it becomes μ_r − σ_r (x − μ_f)/σ_f, moved to the retain set's distribution and mirrored there.

    Stated by the paper's page: probabilistic shift of the selected neurons, without training. Its code: selection and
    formula; of x that are likelier under the forget set the share p_f/(p_f + p_r) is adjusted, by a draw; 0.5 to 5 %
    of the neurons. Where it fills in σ_f it takes μ_f, and what it calls σ_r is a variance. Our reading: standard
    deviations, no draw, so that a prompt has one answer; statistics where an answer token is predicted; the neuron's
    pre-activation is what enters the MLP's nonlinearity.
    """

    part: float = 0.05

    def __post_init__(self):
        require_number("part", self.part, most=1)

    def apply(
        self, model: nn.Module, forget: Encoded, retain: Encoded, *, subjects=None, seed: int = 0
    ) -> Intervened:
        gates = [layer.module.mlp.gate_proj for layer in decoder_layers(model)]
        moments = [
            torch.stack(
                [m for part in (forget, retain) for m in _moments(counted(model, gate, part, entering=False))]
            )
            for gate in gates
        ]
        further = torch.cat([found[0] - found[2] for found in moments])
        least = further.topk(max(1, round(self.part * len(further)))).values[-1]
        return Intervened(Adjustment(model, gates, moments, [found[0] - found[2] >= least for found in moments]))


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.mean(0), values.std(0)


def adjusted(x: Tensor, moments: Tensor) -> Tensor:
    """x [..., neurons] where it is likelier under the retain set, else the mirrored value; `moments` [4, neurons] are
    μ_f, σ_f, μ_r, σ_r."""
    forget, spread, retain, width = moments
    standard = (x - forget) / spread
    likelier = -standard.square() / 2 - spread.log() > -((x - retain) / width).square() / 2 - width.log()
    return torch.where(likelier, retain - width * standard, x)


class Adjustment(Intervention):
    """Adjusts the chosen neurons of each layer, by `share` of the way."""

    def __init__(self, model: nn.Module, gates: list[nn.Module], moments: list[Tensor], chosen: list[Tensor]):
        super().__init__(model)
        self.gates, self.moments, self.chosen = gates, moments, chosen

    def states(self, ids: Tensor) -> Tensor:
        def hook(moments: Tensor, chosen: Tensor):
            return lambda _, __, x: torch.where(chosen, x.lerp(adjusted(x, moments), self.share), x)

        hooks = [
            gate.register_forward_hook(hook(moments, chosen))
            for gate, moments, chosen in zip(self.gates, self.moments, self.chosen, strict=True)
        ]
        try:
            return hidden_of(self.model, input_ids=ids)
        finally:
            for handle in hooks:
                handle.remove()
