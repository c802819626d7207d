"""The definition, in plain float64 torch. Equation numbers are those of README.md in this folder."""

import math

import torch

from palimpsest.kernels.tolerances import accumulation_dtype, unit_roundoff


def coefficients(products: torch.Tensor, mode: str, scope: str) -> torch.Tensor:
    """Equations (2) and (3): c of every tensor, [T] float64, from [T, 3] inner products."""
    product, _, square = (products.sum(0, keepdim=True) if scope == "model" else products).unbind(1)
    c = torch.where(square == 0, 0, product / torch.where(square == 0, 1, square))
    if mode == "conflict":
        c = torch.where(c > 0, 0, c)
    return c.expand(len(products))


def inner_products(grads_f: list[torch.Tensor], grads_r: list[torch.Tensor]) -> torch.Tensor:
    """[T, 3] float64: <g_f, g_r>, ||g_f||^2 and ||g_r||^2 of every tensor."""
    rows = [
        torch.stack([(x * y).sum() for x, y in ((f, r), (f, f), (r, r))])
        for f, r in ((f.double(), r.double()) for f, r in zip(grads_f, grads_r, strict=True))
    ]
    return torch.stack(rows) if rows else torch.zeros(0, 3, dtype=torch.float64)


def project(
    grads_f: list[torch.Tensor], grads_r: list[torch.Tensor], lam: float, mode: str, scope: str
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Equation (1), rounded once to the dtype of the gradients, and the inner products [T, 3] float64."""
    products = inner_products(grads_f, grads_r)
    projected = [
        (r.double() + lam * (f.double() - c * r.double())).to(r.dtype, memory_format=torch.contiguous_format)
        for f, r, c in zip(grads_f, grads_r, coefficients(products, mode, scope), strict=True)
    ]
    return projected, products


def error_scale(
    grads_f: list[torch.Tensor], grads_r: list[torch.Tensor], lam: float, mode: str, scope: str
) -> list[torch.Tensor]:
    """What the rounding errors of `project` are proportional to, equation (5): float64, shaped as grads_r."""
    products = inner_products(grads_f, grads_r)
    sizes = inner_products([f.abs() for f in grads_f], [r.abs() for r in grads_r])
    elements = torch.tensor([f.numel() for f in grads_f], dtype=torch.float64)
    if scope == "model":
        elements = elements.sum().expand(len(grads_f))
    scales = []
    for f, r, c, largest, n in zip(
        grads_f,
        grads_r,
        coefficients(products, mode, scope),
        coefficients(sizes, "always", scope),
        elements,
        strict=True,
    ):
        f, r, u = f.double().abs(), r.double().abs(), unit_roundoff(accumulation_dtype(r.dtype))
        of_c = math.sqrt(n) * unit_roundoff(torch.float64) / u * largest
        scales.append((1 - lam * c).abs() * r + abs(lam) * f + abs(lam) * of_c * r)
    return scales
