"""Gradient difference (Liu et al. 2022, arXiv 2203.12817; the baseline of Maini et al. 2024, TOFU, section 4.1)."""

from dataclasses import dataclass

from palimpsest.unlearning.language.grad_ascent import GradAscent


@dataclass(frozen=True)
class GradDiff(GradAscent):
    """−γ·(mean loss of a forget answer token) + α·(that of a retain one), γ = α = 1 as in open-unlearning."""

    alpha: float = 1.0
