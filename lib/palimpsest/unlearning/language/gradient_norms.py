"""The gradient-norm attack: a score of texts that is low on what a model was trained on."""

import torch
from torch import Tensor, nn

from palimpsest.nets import language, modes
from palimpsest.nets.language import IGNORED, Encoded


def gradient_norms(model: nn.Module, encoded: Encoded) -> Tensor:
    """Of each sequence the norm ‖∂ℓ/∂θ_p‖₂, averaged over the weights p that require a gradient; ℓ is the mean loss
    of its answer's tokens in nats. float64 [N] on the CPU, for `metrics.membership.auc` and `tofu.priv_leak`.

    Wang et al. 2024, "Pandora's white-box: Precise training data detection and extraction in large language models"
    (arXiv 2402.17012), who compare several norms. open-unlearning: the mean over weight tensors, as here, of a norm
    that its caller names. A text that is learnt by heart has no gradient left.

    One backward pass for each sequence, in evaluation mode; the model's own gradients and modes stay as they were.
    Raises ValueError for a model none of whose weights requires a gradient, a sequence without an answer, and as
    `language.output_embedding`.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if not weights:
        raise ValueError("model: got no weight with requires_grad, want some to take the gradient in")
    counted = (encoded.labels != IGNORED).sum(1)
    if not counted.all():
        raise ValueError(f"encoded: got no answer in row {int(counted.argmin())}, want one in each")
    norms = []
    with modes.evaluation(model), torch.enable_grad():
        for row in range(len(encoded)):
            one = encoded.subset(torch.tensor([row])).to(weights[0].device)
            loss = -language.logprobs(model, one).sum() / counted[row]
            found = torch.autograd.grad(loss, weights, allow_unused=True)
            norms.append(torch.stack([g.double().norm() for g in found if g is not None]).mean())
    return torch.stack(norms).cpu()
