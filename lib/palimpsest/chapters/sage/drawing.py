"""The idea of SAGE in one drawing: the tree that follows a sure draft beside the one that follows an unsure draft."""

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from palimpsest import decoding
from palimpsest.decoding.distributions import Distribution, ranked
from palimpsest.figures import method_colour

FALLS = {"sure": 0.1, "unsure": 0.75}
"""By what factor the probability falls from one candidate to the next."""


def draft(fall: float, candidates: int = 10) -> Distribution:
    """What a drafter says whose candidates fall by `fall` each."""
    return ranked(
        torch.arange(candidates, dtype=torch.float64)[None] * torch.tensor(fall).log().double(), candidates
    )[0]


def idea() -> Figure:
    """Two trees by SAGE's rule with the paper's constants, levels from left to right, likelier nodes larger."""
    policy = decoding.policies["sage"]()
    figure, axes = plt.subplots(1, len(FALLS), figsize=(9.4, 3.4), sharex=True, layout="constrained")
    for axis, (name, fall) in zip(axes, FALLS.items(), strict=True):
        signal = draft(fall)
        depth, width = policy.shape(signal, [])
        tree = policy.next(signal, [])
        _tree(axis, tree, signal.probs)
        axis.set_title(f"{name}: α = {signal.alpha:.2f}, D = {depth:.1f}, W = {width:.1f}", fontsize=11)
        axis.set_xlabel(f"level ({len(tree)} nodes on {tree.depth} levels)")
        axis.set(yticks=[], xticks=range(policy.dmax + 1))
        axis.grid(visible=False)
    return figure


def _tree(axis: Axes, tree: decoding.Tree, probs) -> None:
    rows, leaves = {-1: 0}, 0
    stack = [-1]
    while stack:  # depth first: a node stands level with its likeliest leaf
        node = stack.pop()
        rows[node] = leaves
        children = tree.children(node)
        leaves += not children
        stack += reversed(children)
    for node, (parent, level, rank) in enumerate(zip(tree.parents, tree.depths, tree.ranks, strict=True)):
        start = (level - 1, rows[parent])
        axis.plot([start[0], level], [start[1], rows[node]], color="0.7", linewidth=0.8, zorder=1)
        axis.scatter(level, rows[node], s=12 + 130 * probs[rank], color=method_colour("sage"), zorder=2)
    axis.scatter(0, 0, s=70, color="black", zorder=2)
    axis.annotate("last token", (0, 0), xytext=(0, 9), textcoords="offset points", ha="center", fontsize=8)
    axis.set_ylim(max(leaves, 8) - 0.5, -1.5)
