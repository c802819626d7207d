"""Is the fact still written in the weights? Traces in the value vectors of MLPs (Hong et al. 2024, arXiv 2406.11614).

A value vector is a column of an MLP's last matrix: what a neuron adds to the residual stream when it fires. Seen
through the output embedding it is a score for every token.

Stated by the paper (ConceptVectors): vectors that stand for a concept are found by that projection in the model as it
was, and unlearning is judged by how much they, and the tokens that they score highest, change; most methods change
them little and keep them from firing. Its code compares by cosine, norm and the Jaccard index of the highest tokens.
A language model says there which vectors stand for a concept. Our reading: those that write most of the facts to be
forgotten.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palimpsest.nets import language
from palimpsest.nets.language import IGNORED, Encoded
from palimpsest.pruning.decoder import decoder_layers
from palimpsest.unlearning.language.inference import counted

VECTORS = 10
"""In each layer, those that write most."""
TOKENS = 50
"""Of each vector, the highest."""


@dataclass(frozen=True)
class Trace:
    """Of the model as it was, layer by layer: `firing`, how neurons fire where a fact's tokens are predicted,
    [tokens, neurons] each; `facts`, these tokens, [tokens]; `top`, the neurons that write most of them, [vectors]
    each; `highest`, the TOKENS highest tokens of each."""

    firing: list[Tensor]
    facts: Tensor
    top: list[Tensor]
    highest: list[Tensor]


@torch.no_grad()
def find(model: nn.Module, encoded: Encoded, vectors: int = VECTORS) -> Trace:
    """`encoded`: sequences whose answers are the facts and nothing else. `vectors`: how many of each layer's."""
    layers = [layer.module.mlp.down_proj for layer in decoder_layers(model)]
    firing = [counted(model, matrix, encoded, entering=True) for matrix in layers]
    facts = encoded.labels[encoded.labels != IGNORED]
    wanted, top, highest = wants(model, facts), [], []
    for fires, matrix in zip(firing, layers, strict=True):
        writes = (fires * (wanted @ matrix.weight)).mean(0)
        top.append(writes.topk(min(vectors, len(writes))).indices)
        highest.append(highest_tokens(model, matrix.weight[:, top[-1]]))
    return Trace(firing, facts, top, highest)


def wants(model: nn.Module, tokens: Tensor) -> Tensor:
    """The direction of the residual stream that raises each token's logit above the mean logit, [tokens, D]: the last
    norm's weight times the token's embedding less the mean one. The norm's division is left out."""
    embedding = language.output_embedding(model)
    return model.get_decoder().norm.weight * (embedding[tokens] - embedding.mean(0))


def highest_tokens(model: nn.Module, vectors: Tensor) -> Tensor:
    """The tokens that each of vectors [D, n] scores highest, [n, TOKENS]."""
    scores = (model.get_decoder().norm.weight * language.output_embedding(model)) @ vectors
    return scores.topk(min(TOKENS, len(scores)), dim=0).indices.T


@torch.no_grad()
def left(model: nn.Module, trace: Trace) -> dict[str, float]:
    """What of the trace is left in `model`: "written", how far its value vectors raise the facts' tokens when they
    fire as they did, in logits before the norm, mean over tokens; "jaccard", the mean overlap of the highest tokens
    of the traced vectors with those of before."""
    wanted = wants(model, trace.facts)
    layers = [layer.module.mlp.down_proj.weight for layer in decoder_layers(model)]
    written = sum(
        float((fires * (wanted @ weight)).sum(1).mean()) for fires, weight in zip(trace.firing, layers, strict=True)
    )
    overlaps = [
        jaccard(set(before), set(now))
        for weight, top, highest in zip(layers, trace.top, trace.highest, strict=True)
        for before, now in zip(highest.tolist(), highest_tokens(model, weight[:, top]).tolist(), strict=True)
    ]
    return {"written": written, "jaccard": sum(overlaps) / len(overlaps)}


@torch.no_grad()
def ablate(model: nn.Module, top: list[Tensor]) -> None:
    """Set these value vectors of each layer to 0, in place: what the paper shows to remove a concept."""
    for layer, neurons in zip(decoder_layers(model), top, strict=True):
        layer.module.mlp.down_proj.weight[:, neurons] = 0


def jaccard(one: set[int], other: set[int]) -> float:
    return len(one & other) / len(one | other)
