"""The definition, in plain float64 torch. Equation numbers are those of README.md in this folder."""

import torch

from palimpsest.kernels.tolerances import accumulation_dtype, tolerance


def coefficients(products: torch.Tensor, mode: str, scope: str) -> torch.Tensor:
    """Equations (2) and (3): c, [1] for the model or [T], float64, from [T, 3] inner products."""
    product, _, square = (products.sum(0, keepdim=True) if scope == "model" else products).unbind(1)
    c = torch.where(square == 0, 0, product / torch.where(square == 0, 1, square))
    if mode == "conflict":
        c = torch.where(c > 0, 0, c)
    return c


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
    c = coefficients(products, mode, scope).expand(len(products))
    projected = [
        (r.double() + lam * (f.double() - c * r.double())).to(r.dtype, memory_format=torch.contiguous_format)
        for f, r, c in zip(grads_f, grads_r, c, strict=True)
    ]
    return projected, products


def error_scale(
    grads_f: list[torch.Tensor], grads_r: list[torch.Tensor], lam: float, mode: str, scope: str
) -> list[torch.Tensor]:
    """Sums of |terms| of `project`, equation (5), float64, shaped as grads_r, for two terms per element.

    The error of c, a sum over all elements in the accumulation dtype, is weighted accordingly.
    """
    c = coefficients(inner_products(grads_f, grads_r), mode, scope)
    sizes = inner_products([f.abs() for f in grads_f], [r.abs() for r in grads_r])
    counts, dtypes = [f.numel() for f in grads_f], [accumulation_dtype(r.dtype) for r in grads_r]
    if scope == "model":
        counts = [sum(counts)] * len(counts)
        dtypes = [torch.float32 if torch.float32 in dtypes else torch.float64] * len(dtypes)
    ratio = coefficients(sizes, "always", scope).expand(len(counts))
    scales = []
    for f, r, n, dtype, a, b in zip(grads_f, grads_r, counts, dtypes, c.expand(len(counts)), ratio, strict=True):
        of_c = tolerance(dtype, n) / tolerance(r.dtype, 2) * b
        scales.append(((1 - lam * a).abs() + abs(lam) * of_c) * r.double().abs() + abs(lam) * f.double().abs())
    return scales
