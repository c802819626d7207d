"""ECO: embedding-corrupted prompts (Liu et al. 2024, arXiv 2406.07933)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from palimpsest.checks import require_count, require_number
from palimpsest.nets.language import Encoded
from palimpsest.training import seeds
from palimpsest.unlearning.language.evaluation import probability
from palimpsest.unlearning.language.inference import (
    Intervened,
    Intervention,
    Rival,
    hidden_of,
    prompt_ends,
    prompt_lasts,
    prompt_mark,
)


@dataclass(frozen=True)
class ECO(Rival):
    """A classifier reads the prompt; where it finds the prompt in scope, noise of standard deviation σ is added to
    the first `dims` coordinates of the embeddings of the prompt's tokens, but the last. σ is searched for without
    gradients, so that the forget answers' probability becomes `goal`, what a model would give that never met them.

    Stated by the paper: classifier and corruption; σ by zeroth-order optimisation of the distance between a metric
    and its value for a retrained model, for which it takes a surrogate. Its code: RoBERTa as the classifier, in scope
    at a threshold of 0.99 or more; the first dimension; central differences, ten steps; noise drawn anew in
    each pass, at each position. Our reading: logistic regression on which tokens the prompt has, threshold 0.5; noise
    drawn once for each token of the vocabulary, so that a prompt has one answer; σ in units of the embedding's
    standard deviation, the slope taken of |p − goal|.
    """

    goal: float = 0.1
    dims: int = 8
    sigma: float = 1.0
    step: float = 4.0
    probe: float = 0.5
    steps: int = 10

    def __post_init__(self):
        require_number("goal", self.goal, least=0, most=1)
        require_count("dims", self.dims)
        require_count("steps", self.steps)
        for name in ("sigma", "step", "probe"):
            require_number(name, getattr(self, name))

    def apply(
        self, model: nn.Module, forget: Encoded, retain: Encoded, *, subjects=None, seed: int = 0
    ) -> Intervened:
        weight = model.get_input_embeddings().weight
        if self.dims > weight.shape[1]:
            raise ValueError(f"dims: got {self.dims}, want at most the embedding's {weight.shape[1]}")
        mark = prompt_mark(forget)
        noise = torch.zeros_like(weight)
        drawn = torch.randn(len(weight), self.dims, generator=seeds.generator(seed, "corruption"))
        noise[:, : self.dims] = drawn.to(weight) * weight.detach().std()
        corrupted = Intervened(Corruption(model, mark, scope(forget, retain, len(weight)), noise))

        def score(sigma: float) -> float:
            corrupted.decoder.sigma = sigma
            return abs(probability(corrupted, forget) - self.goal)

        corrupted.decoder.sigma = zeroth_order(score, self.sigma, self.step, self.probe, self.steps)
        return corrupted


def zeroth_order(score: Callable[[float], float], start: float, step: float, probe: float, steps: int) -> float:
    """Descend `score` by central differences, σ ← max(σ − step·(score(σ + probe) − score(max(σ − probe, 0))) /
    (2·probe), 0), `steps` times; the σ with the least score of those visited."""
    sigma, visited = start, {}
    for _ in range(steps):
        visited[sigma] = score(sigma)
        slope = (score(sigma + probe) - score(max(sigma - probe, 0.0))) / (2 * probe)
        sigma = max(sigma - step * slope, 0.0)
    visited[sigma] = score(sigma)
    return min(visited, key=visited.get)


def scope(forget: Encoded, retain: Encoded, vocabulary: int) -> LogisticRegression:
    """Tells prompts of the two sets apart by the tokens they have; classes weigh alike."""
    prompts = torch.cat([present(part.ids, prompt_lasts(part), vocabulary) for part in (forget, retain)])
    inside = [1] * len(forget) + [0] * len(retain)
    return LogisticRegression(class_weight="balanced", max_iter=1000).fit(prompts.cpu().numpy(), inside)


def present(ids: Tensor, ends: Tensor, vocabulary: int) -> Tensor:
    """Which tokens each row has up to its end, float32 [N, vocabulary] of 0 and 1."""
    before = torch.arange(ids.shape[1], device=ids.device) <= ends[:, None]
    return torch.zeros(len(ids), vocabulary, device=ids.device).scatter_reduce(1, ids, before.float(), "amax")


class Corruption(Intervention):
    """Adds share·σ·noise[token] to the embeddings of prompts in scope, their last token aside. A row without the
    template's mark is passed as it is."""

    def __init__(self, model: nn.Module, mark: Tensor, classifier: LogisticRegression, noise: Tensor):
        super().__init__(model)
        self.classifier, self.sigma = classifier, 0.0
        self.register_buffer("mark", mark, persistent=False)
        self.register_buffer("noise", noise, persistent=False)

    def states(self, ids: Tensor) -> Tensor:
        ends = prompt_ends(ids, self.mark)
        inside = (self.in_scope(ids, ends) & (ends >= 0))[:, None]
        corrupted = inside & (torch.arange(ids.shape[1], device=ids.device) < ends[:, None])
        embedded = self.model.get_input_embeddings()(ids)
        added = self.share * self.sigma * self.noise[ids] * corrupted[..., None]
        return hidden_of(self.model, inputs_embeds=embedded + added)

    def in_scope(self, ids: Tensor, ends: Tensor) -> Tensor:
        """Whether the classifier finds each row's prompt in scope, bool [N]."""
        found = self.classifier.predict(present(ids, ends, len(self.noise)).cpu().numpy())
        return torch.from_numpy(found).bool().to(ids.device)
