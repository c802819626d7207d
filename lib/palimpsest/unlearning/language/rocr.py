"""ROCR: rank-one concept redirection (Ye, Zhang and Wu 2025, arXiv 2506.07795)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palimpsest.checks import require_number
from palimpsest.nets.language import Encoded
from palimpsest.pruning.decoder import decoder_layers
from palimpsest.unlearning.language.inference import Rival, counted, passing


@dataclass(frozen=True)
class ROCR(Rival):
    """Where the prompt has a name, the model is made to see another: W, the last matrix of one layer's MLP, becomes
    W + Δ, in place, for one token of one name after another (`redirection`). k, what enters W there, and r, what the
    layer's output lacks there of that at the other name's token, are means over the prompts that have the name.

    Stated by the abstract: training-free, a rank-one change, the concept is redirected to a harmless one. Its code:
    the equation, with the projection of AlphaEdit (Fang et al. 2024, arXiv 2410.02355), at one token of the name;
    layers 4 and 5 of 32 share r; the other representation is that of one fixed name, noise, or optimised towards a
    refusal. Our reading: a fixed name; every token, since in a small model each may say whose name it is; one layer,
    at the same depth, ⌊4/32 of their number⌋; contexts are the prompts of the two sets; directions count as unused
    whose share of the retained keys' second moment is below `null` of the largest.
    """

    null: float = 1e-3
    ridge: float = 1e-2

    def __post_init__(self):
        require_number("null", self.null, most=1)
        require_number("ridge", self.ridge)

    def apply(self, model: nn.Module, forget: Encoded, retain: Encoded, *, subjects=None, seed: int = 0) -> nn.Module:
        if not subjects:
            raise ValueError(
                f"subjects: got {subjects!r}, want for each name in the forget set the one to see for it"
            )
        places = [
            (name_token(forget.ids, old, at), name_token(retain.ids, new, min(at, len(new) - 1)))
            for old, new in subjects
            for at in range(len(old))
        ]
        layers = decoder_layers(model)
        layer = layers[4 * len(layers) // 32].module
        matrix = layer.mlp.down_proj
        kept = counted(model, matrix, retain, entering=True)
        project = null_space(kept.T @ kept / len(kept), self.null)
        keys = passing(model, matrix, forget.ids, entering=True)
        seen, shall_see = (passing(model, layer, part.ids, entering=False) for part in (forget, retain))
        pairs = [(keys[old].mean(0), shall_see[new].mean(0) - seen[old].mean(0)) for old, new in places]
        done = torch.zeros_like(project)
        for key, lacks in pairs:
            with torch.no_grad():
                matrix.weight.add_(redirection(key, lacks, project, done, self.ridge))
            done += torch.outer(key, key)
        return model


def redirection(key: Tensor, lacks: Tensor, project: Tensor, done: Tensor, ridge: float) -> Tensor:
    """Δ [rows, columns] with (P(k k^T + C) + ridge·I) Δ^T = P k r^T, of rank one.

    key: k [columns]; lacks: r [rows]; project: P [columns, columns], onto what keys of retained text do not use;
    done: C, the sum of k k^T of names that were redirected before, which keep their place.
    """
    left = project @ (torch.outer(key, key) + done) + ridge * torch.eye(len(key)).to(key)
    return torch.linalg.solve(left, torch.outer(project @ key, lacks)).T


def null_space(moment: Tensor, null: float) -> Tensor:
    """The projection onto the eigenvectors of `moment` [D, D] whose eigenvalue is at most `null` of the largest."""
    values, vectors = torch.linalg.eigh(moment)
    unused = vectors[:, values <= null * values[-1]]
    return unused @ unused.T


def name_token(ids: Tensor, name: list[int], at: int) -> tuple[Tensor, Tensor]:
    """(rows, places) of token `at` of the first `name` in each row of ids [N, T] that has it. ValueError where none
    has."""
    hits = (ids.unfold(1, len(name), 1) == torch.tensor(name, device=ids.device)).all(2)
    rows = hits.any(1).nonzero().flatten()
    if not len(rows):
        raise ValueError(f"subjects: got the tokens {name}, which no sequence has")
    return rows, hits[rows].int().argmax(1) + at
