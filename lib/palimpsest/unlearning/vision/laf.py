"""LAF: label-agnostic forgetting (Shen et al. 2024, ICLR)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from palimpsest.checks import require_number
from palimpsest.nets.modes import evaluation
from palimpsest.unlearning.vision import vae
from palimpsest.unlearning.vision.method import Method
from palimpsest.unlearning.vision.task import Task, cross_entropy


@dataclass(frozen=True)
class LAF(Method):
    """Make forget features strange to an autoencoder that knows them, hold retain features to the original's.

    Stated by the paper: one VAE learns the features of all training data, one those of the forget set; the
    extractor is unlearned by keeping the first VAE's errors on retain data small and making the second's on forget
    data large, then aligned by a contrastive loss; no labels ("LAF"), or a supervised epoch at the end ("LAF+R").
    Released code: hidden layers of 128 and 32, latent size 8 (Fashion-MNIST), KL weight 0.025, 10 epochs of Adam at
    1e-3; the errors m enter as exp(m / (m + 1)); alignment is
    log(exp(1 − cos_r) / Σ_forget exp((1 − cos_f) / τ)), cosines against the original's features, τ = 20 (5 for random
    sets in grey images); the two losses step in turn, alignment 2 to 4 times as far; all in evaluation mode.

    What is simplified: steps are the trainer's momentum SGD, one momentum for both losses, in place of two Adam
    optimisers, and losses are means over a batch in place of sums; latent means in place of samples when
    unlearning; no sigmoid on the decoder, since features after ReLU exceed 1; forget batches begin again until the
    retain set is through (the code stops at the shorter one); the repair moves all weights, the code's only
    the classifier, and is scaled up to the peak step size, which the cosine has left behind by then.

    temperature: τ.
    alignment: step size of the alignment, relative to that of the extractor's loss.
    repair: end with an epoch of cross-entropy on the retain set.
    """

    temperature: float = 20.0
    alignment: float = 4.0
    repair: bool = False

    grid = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1)

    def __post_init__(self):
        for name in ("temperature", "alignment"):
            require_number(name, getattr(self, name))
        if not isinstance(self.repair, bool):
            raise ValueError(f"repair: got {self.repair!r}, want True or False")

    def begin(self, task: Task) -> None:
        if not hasattr(getattr(task.net, "model", task.net), "features"):
            raise ValueError("models: LAF needs networks with `features`, got one without")
        everything = torch.arange(task.y.shape[1], device=task.y.device).expand_as(task.y)
        parts = [self._of_original(task, batch) for batch in everything.T.split(500)]
        features = torch.cat(parts).transpose(0, 1)
        for name, indices in (("all", everything), ("forget", task.forget)):
            for i, parameter in enumerate(vae.train(task, features, indices, name)):
                task.memory[f"{name}.{i}"] = parameter

    def epoch(self, task: Task, epoch: int) -> Iterator[None]:
        vaes = {
            name: [task.memory[f"{name}.{i}"] for i in range(sum(key.startswith(f"{name}.") for key in task.memory))]
            for name in ("all", "forget")
        }
        for forget, retain in task.paired(epoch):
            if forget is None:  # both of its losses need a pair
                continue
            with evaluation(task.net):
                own_r, own_f = (task.features(task.images(batch)) for batch in (retain, forget))
                task.descend(task.gradients(strangeness(vaes["all"], own_r) - strangeness(vaes["forget"], own_f)))
            yield
            with evaluation(task.net):
                own_r, own_f = (task.features(task.images(batch)) for batch in (retain, forget))
                first_r, first_f = (self._of_original(task, batch) for batch in (retain, forget))
                loss = contrast(own_r, first_r, own_f, first_f, self.temperature)
                task.descend(task.gradients(self.alignment * loss))
            yield
        if self.repair and epoch == task.epochs - 1:
            peak = 2 / (1 + math.cos(math.pi * epoch / task.epochs))
            for batch in task.retained(epoch):
                loss = cross_entropy(task.logits(task.images(batch)), task.labels(batch))
                task.descend(task.gradients(peak * loss))
                yield

    @torch.no_grad()
    def _of_original(self, task: Task, batch: Tensor) -> Tensor:
        """Features [B, K, D] of the original networks."""
        task.samples_forward += len(batch)
        return task.original.features(task.images(batch))


def strangeness(parameters: vae.Parameters, features: Tensor) -> Tensor:
    """[K] the mean over features [B, K, D] of exp(m / (m + 1)), m the squared reconstruction error."""
    error, _ = vae.reconstruct(parameters, features.transpose(0, 1))
    return (error / (error + 1)).exp().mean(1)


def contrast(own_r: Tensor, first_r: Tensor, own_f: Tensor, first_f: Tensor, temperature: float) -> Tensor:
    """[K] small where retain features [B, K, D] point as the original's do and forget features do not."""
    away_r, away_f = (1 - F.cosine_similarity(a, b, dim=-1) for a, b in ((own_r, first_r), (own_f, first_f)))
    return away_r.mean(0) - (away_f / temperature).logsumexp(0)
