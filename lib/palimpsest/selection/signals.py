"""What a training run records for the score-based methods, and the functions that compute it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from palimpsest.nets.classifier import logits_of
from palimpsest.nets.quantised import Quantised
from palimpsest.selection import checks

LAYOUTS = {
    "logits": "NC",
    "early_logits": "RNC",
    "grad_norms": "RN",
    "forgetting": "N",
    "out_of_sample_probs": "NC",
}


@dataclass(frozen=True)
class Signals:
    """Per-sample records of training, all float tensors, each needed only by the methods that name it.

    N samples in the order of `features`, C classes, R networks (independent starts) to average over. All are
    taken under the labels given to `select`, noisy or not.

    logits: [N, C], of the final network.
    early_logits: [R, N, C], of R networks after a few epochs.
    grad_norms: [R, N], the norm of each sample's loss gradient at initialisation or after a few epochs.
    forgetting: [N], counts as `forgetting_events` gives them; +inf is accepted for a sample never learned.
    out_of_sample_probs: [N, C], each row predicted by a network that did not train on that sample.
    """

    logits: Tensor | None = None
    early_logits: Tensor | None = None
    grad_norms: Tensor | None = None
    forgetting: Tensor | None = None
    out_of_sample_probs: Tensor | None = None

    def checked(self, method: str, needs: tuple[str, ...], labels: Tensor) -> "Signals":
        """The fields `needs`, checked against `labels` and on their device; the others dropped."""
        given = {name: self._checked_field(method, name, labels) for name in needs}
        return Signals(**given)

    def _checked_field(self, method: str, name: str, labels: Tensor) -> Tensor:
        value, layout, name = getattr(self, name), LAYOUTS[name], f"signals.{name}"
        axes = f"[{', '.join(layout)}] with N = {len(labels)}"
        if value is None:
            raise ValueError(f"method {method!r} needs {name}, a float tensor {axes}; it is None")
        value = checks.float_tensor(name, value, layout).to(labels.device)
        if value.shape[layout.index("N")] != len(labels):
            raise ValueError(f"{name} has shape {list(value.shape)}; wanted {axes}")
        if layout != "N":
            checks.finite(name, value, layout)
        if layout.endswith("C"):
            checks.labels_below(name, labels, value.shape[-1])
        if not name.endswith("logits"):
            checks.non_negative(name, value, layout)
        if name.endswith("probs"):
            # 1e-3 lets through rows rounded to half precision over many classes, and no row of logits.
            off = ((value.sum(1) - 1).abs() > 1e-3).nonzero().flatten()
            if len(off):
                total = f"row {int(off[0])} sums to {value[off[0]].sum():.4g}"
                raise ValueError(f"{name} must hold probabilities that sum to 1; {total}")
        return value


def el2n(logits: Tensor, labels: Tensor) -> Tensor:
    """EL2N: ‖softmax(logits) − onehot(label)‖₂, averaged over networks. [N, C] or [R, N, C], [N] -> [N].

    Source: Paul, Ganguli, Dziugaite 2021, arXiv:2107.07075, section 2 (the expectation over networks is
    the mean over R; they average ten networks early in training). Between 0 and √2.
    """
    layout = "RNC" if getattr(logits, "ndim", 2) == 3 else "NC"
    logits = checks.float_tensor("logits", logits, layout)
    checks.finite("logits", logits, layout)
    labels = checks.labels_tensor(labels, logits.shape[-2]).to(logits.device)
    checks.labels_below("logits", labels, logits.shape[-1])
    error = logits.softmax(-1) - F.one_hot(labels, logits.shape[-1])
    norms = error.norm(dim=-1)
    return norms.mean(0) if layout == "RNC" else norms


def forgetting_events(correct: Tensor) -> Tensor:
    """How often each sample was forgotten. [E, N] bool, correctly classified at epoch e or not -> [N] float.

    Source: Toneva et al. 2019, arXiv:1812.05159, section 3: an event is a change from correct at one
    presentation to wrong at the next. A sample never classified correctly counts as forgotten infinitely
    often in their ordering; their code gives it the number of presentations, E, which no other sample can
    reach, and so do we: it sorts first and stays finite in averages. (DeepCore's version leaves it at 0,
    among the unforgettable.)
    """
    is_bool = isinstance(correct, Tensor) and correct.dtype == torch.bool
    if not is_bool or correct.ndim != 2 or correct.numel() == 0:
        raise ValueError(f"correct is {checks.describe(correct)}; wanted a non-empty [E, N] bool tensor")
    events = (correct[:-1] & ~correct[1:]).sum(0)
    return torch.where(correct.any(0), events, len(correct)).float()


def grad_norms(model: nn.Module, x: Tensor, y: Tensor, chunk: int = 32) -> Tensor:
    """GraNd: the norm of each sample's cross-entropy gradient in all parameters. [N, ...], [N] -> [N].

    Source: Paul, Ganguli, Dziugaite 2021, arXiv:2107.07075, section 2, for one network; stack the
    results of several into `Signals.grad_norms`. The gradient of all trainable parameters is taken, not the
    last layer's. `chunk` samples are held at a time: memory grows with chunk × parameters. The model's own
    `.grad` fields are left alone.

    Raises `ValueError` if the model trains: batch statistics would mix the samples, and no sample have its
    own gradient. And if none of its weights is to be trained.
    """
    if training := [f"model {name}".strip() for name, part in model.named_modules() if part.training]:
        raise ValueError(f"{training[0]} is in training mode; wanted model.eval(), where samples do not mix")
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"chunk is {chunk!r}; wanted a positive integer")
    if not isinstance(x, Tensor) or x.ndim < 2 or x.numel() == 0 or not x.isfinite().all():
        raise ValueError(f"x is {checks.describe(x)}; wanted a non-empty [N, ...] tensor of finite inputs")
    y = checks.labels_tensor(y, len(x)).to(x.device)
    with torch.no_grad():
        checks.labels_below("the output of model", y, logits_of(model(x[:1])).shape[-1])
    weights = {name: w.detach() for name, w in model.named_parameters() if w.requires_grad}
    if not weights:
        raise ValueError("model has no weight with requires_grad; wanted some to take the gradient in")

    def loss(weights, sample, label):
        return F.cross_entropy(logits_of(functional_call(model, weights, (sample[None],))), label[None])

    def norm(sample, label):
        gradient = grad(loss)(weights, sample, label)
        return torch.stack([g.square().sum() for g in gradient.values()]).sum().sqrt()

    if any(isinstance(layer, Quantised) for layer in model.modules()):
        # One by one: a quantiser looks at the value of its step, and vmap admits no look.
        return torch.stack([_norm_alone(model, weights, sample, label) for sample, label in zip(x, y, strict=True)])
    return vmap(norm, chunk_size=chunk)(x, y).detach()


def _norm_alone(model: nn.Module, weights: dict[str, Tensor], sample: Tensor, label: Tensor) -> Tensor:
    own = {name: w.requires_grad_() for name, w in weights.items()}
    with torch.enable_grad():
        loss = F.cross_entropy(logits_of(functional_call(model, own, (sample[None],))), label[None])
    gradients = torch.autograd.grad(loss, list(own.values()), allow_unused=True)
    return torch.stack([g.square().sum() for g in gradients if g is not None]).sum().sqrt()
