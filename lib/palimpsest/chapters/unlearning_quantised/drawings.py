"""The ideas of OEU and Q-MUL's quantiser, each in one drawing that a reader can move.

The drawing is an SVG of its own: it is what is printed, and what a page without scripts shows. A short script beside
it moves what it shows, by mouse, finger and keyboard. Its colours stand on light and on dark pages.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from palimpsest import kernels
from palimpsest.nets.quantised import code_range, first_step

HERE = Path(__file__).parent
ORANGE, BLUE, GREEN, PINK = "#c77d00", "#0a85c9", "#029e73", "#c96fae"
"""Told apart under every common colour blindness, and on white as on black."""
BITS = {2: ORANGE, 3: GREEN, 4: PINK, 8: BLUE}
REACH = 4.0
"""How far the staircase is drawn, in standard deviations of the weights."""


@dataclass(frozen=True)
class Widget:
    """A drawing and what moves it: pages take the HTML, print the SVG."""

    svg: str
    template: str
    data: object

    def _repr_svg_(self) -> str:
        return self.svg

    def _repr_html_(self) -> str:
        page = (HERE / self.template).read_text(encoding="utf-8")
        return page.replace("SVG", self.svg, 1).replace("DATA", json.dumps(self.data), 1)


def projected(g_f: tuple[float, float], g_r: tuple[float, float]) -> list[float]:
    """g_f without its part along g_r."""
    f, r = (torch.tensor(g, dtype=torch.float64) for g in (g_f, g_r))
    (update,) = kernels.project_orthogonal([f], [r])
    return (update - r).tolist()


def projection(g_f: tuple[float, float] = (-1.1, 1.0), g_r: tuple[float, float] = (1.5, 0.3)) -> Widget:
    """The two gradients and the projection of the first; both tips can be moved."""
    perp = projected(g_f, g_r)
    f, r = torch.tensor(g_f), torch.tensor(g_r)
    angle = torch.rad2deg(torch.arccos(f @ r / (f.norm() * r.norm())))
    said = (
        f"The forget gradient stands at {angle:.0f} degrees to the retain gradient. Its part along the retain "
        "gradient is taken away; what is left stands at a right angle to the retain gradient."
    )
    heads = "".join(
        f'<marker id="oeu-{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="5" markerHeight="5" '
        f'orient="auto">'
        f'<path d="M0 0L10 5L0 10z" fill="{colour}"/></marker>'
        for name, colour in (("f", ORANGE), ("r", BLUE), ("perp", GREEN))
    )
    arrows = "".join(
        f'<line class="{name}" x2="{x:.4f}" y2="{-y:.4f}" stroke="{colour}" stroke-width=".04" '
        f'marker-end="url(#oeu-{name})"/>'
        for name, colour, (x, y) in (("f", ORANGE, g_f), ("r", BLUE, g_r), ("perp", GREEN, perp))
    )
    names = "".join(
        f'<text class="{name}-name" x="{x + 0.08:.4f}" y="{-y - 0.1:.4f}">{label}</text>'
        for name, label, (x, y) in (("f", "g_f", g_f), ("r", "g_r", g_r), ("perp", "g_f⊥", perp))
    )
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="-2.4 -1.7 4.8 2.5" width="620" role="img" '
        f'aria-label="{said}" fill="none" style="max-width:100%;height:auto">'
        f"<defs>{heads}</defs>"
        f'<line class="taken" x1="{g_f[0]:.4f}" y1="{-g_f[1]:.4f}" x2="{perp[0]:.4f}" y2="{-perp[1]:.4f}" '
        'stroke="currentColor" stroke-width=".02" stroke-dasharray=".06 .05"/>'
        f'{arrows}<g font-size=".17" font-family="sans-serif" fill="currentColor">{names}</g></svg>'
    )
    return Widget(svg, "projection.html", {"f": g_f, "r": g_r})


def stairs(bits: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Weights v on a grid [801], their rounding, and the root mean square of the rounding error of normal weights;
    all in standard deviations. The step is the one that LSQ begins with."""
    low, high = code_range(bits, signed=True)
    step = torch.tensor(first_step((2 / torch.pi) ** 0.5, high), dtype=torch.float64)
    grid = torch.linspace(-REACH, REACH, 801, dtype=torch.float64)
    normal = torch.randn(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rounded, drawn = (kernels.lsq_quantize(v, step, low, high) for v in (grid, normal))
    return grid, rounded, (drawn - normal).square().mean().sqrt().item()


def staircase() -> Widget:
    """Rounding by bits; a slider shows one staircase at a time."""
    paths, words = [], []
    for bits, colour in BITS.items():
        grid, rounded, error = stairs(bits)
        low, high = code_range(bits, signed=True)
        path = f"M{grid[0]:.2f} {-rounded[0]:.3f}"
        for v, now, before in zip(grid[1:], rounded[1:], rounded[:-1], strict=True):
            if now != before:
                path += f"H{v:.2f}V{-now:.3f}"
        paths.append(f'<path class="bits" d="{path}H{REACH}" stroke="{colour}" stroke-width=".05"/>')
        words.append(f"{bits} bits: {high - low + 1} codes, error {error:.2f} σ")
    legend = "".join(
        f'<path d="M{-REACH + 0.2} {-3.65 + 0.4 * i}h.5" stroke="{colour}" stroke-width=".08"/>'
        f'<text x="{-REACH + 0.85}" y="{-3.55 + 0.4 * i}">{said}</text>'
        for i, (colour, said) in enumerate(zip(BITS.values(), words, strict=True))
    )
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="{-REACH - 0.6} {-REACH} {2 * REACH + 0.9} {2 * REACH + 0.6}" width="560" role="img" fill="none" '
        'aria-label="Rounded weight against weight, both in standard deviations σ; the error is that of normal '
        f'weights. {". ".join(words)}." '
        'style="max-width:100%;height:auto">'
        f'<path d="M{-REACH} 0H{REACH}M0 {-REACH}V{REACH}" stroke="currentColor" stroke-width=".02" opacity=".5"/>'
        f'{"".join(paths)}<g font-size=".24" font-family="sans-serif" fill="currentColor">{legend}'
        f'<text x="{REACH}" y=".32" text-anchor="end">weight v, in σ</text>'
        f'<text x=".12" y="{REACH - 0.1}">rounded, in σ</text></g></svg>'
    )
    return Widget(svg, "staircase.html", words)
