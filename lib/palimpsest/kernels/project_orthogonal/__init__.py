"""Gradient of the forget loss without its part along that of the retain loss. Derivation: README.md."""

import math
from numbers import Real

import torch

from palimpsest.kernels import _dispatch, _multi_tensor
from palimpsest.kernels.project_orthogonal import chunked, reference

MODES = ("always", "conflict")
SCOPES = ("model", "layer")


@torch.no_grad()
def project_orthogonal(
    grads_f: list[torch.Tensor],
    grads_r: list[torch.Tensor],
    lam: float = 1.0,
    mode: str = "always",
    scope: str = "model",
    *,
    return_products: bool = False,
    backend: str | None = None,
) -> list[torch.Tensor] | tuple[list[torch.Tensor], torch.Tensor]:
    """g_r + lam (g_f - c g_r) with c = <g_f, g_r> / ||g_r||^2, so that the forget part is orthogonal to g_r.

    Stated by the paper (arXiv 2602.00567, abstract): the forgetting gradient is projected onto the orthogonal
    complement of the retain gradient. Our reading: the formula, `lam`, `mode` and `scope`; c is 0 where g_r is.
    Inner products are summed in float64. Not differentiable; two calls give the same bits.

    Args:
        grads_f: T tensors of any shapes, float16, bfloat16, float32 or float64, any strides: the gradient of
            the forget loss, one tensor per parameter.
        grads_r: the gradient of the retain loss; tensor by tensor the same shape, dtype and device.
        lam: weight of the projected forget gradient.
        mode: "always" projects; "conflict" only where <g_f, g_r> < 0 (c is at most 0).
        scope: "model" has one c for all tensors together, "layer" one for each tensor.
        return_products: also return the inner products of every tensor, from the same pass, whatever `mode` and
            `scope`. ``products[:, 0].sum()`` is <g_f, g_r>, ``products[:, 2].sum()`` is ||g_r||^2, and
            ``products[:, 1:].sqrt().sum(0)`` is (G_f, G_r), the norms summed over tensors that adaptive
            gradient reweighting needs.
        backend: None takes Triton on CUDA tensors and the chunked torch path on CPU; "reference" is the plain
            definition; "triton" on CPU tensors needs TRITON_INTERPRET=1 before triton is first imported.

    Returns:
        T new tensors with the shapes and dtypes of grads_r; with `return_products` also [T, 3]
        float64, each row <g_f, g_r>, ||g_f||^2, ||g_r||^2 of one tensor.

    Raises:
        ValueError: not lists of floating-point tensors, unequal lengths, shapes, dtypes or devices, a `lam`
            that is not finite, unknown mode, scope or backend; on CPU also NaN or infinity in a gradient (on
            CUDA it gives NaN).
        BackendUnavailableError: "triton" forced where it cannot run; it says why.
    """
    _multi_tensor.require_partners("grads_f", grads_f, "grads_r", grads_r)
    if not isinstance(lam, Real) or not math.isfinite(lam):
        raise ValueError(f"lam: got {lam!r}, want a finite number")
    if mode not in MODES:
        raise ValueError(f"mode: got {mode!r}, want one of {', '.join(map(repr, MODES))}")
    if scope not in SCOPES:
        raise ValueError(f"scope: got {scope!r}, want one of {', '.join(map(repr, SCOPES))}")
    device = grads_f[0].device if grads_f else torch.device("cpu")
    chosen = _dispatch.choose("project_orthogonal", backend, device, "torch-chunked")
    if chosen == "reference" or not grads_f:
        path = reference
    elif chosen == "triton":
        _multi_tensor.refuse_interpreted_cuda(device)
        from palimpsest.kernels.project_orthogonal import triton as path
    else:
        path = chunked
    projected, products = path.project(grads_f, grads_r, float(lam), mode, scope)
    if device.type != "cuda":
        _refuse_non_finite(products if path is chunked else products.tolist())
    return (projected, torch.as_tensor(products, dtype=torch.float64)) if return_products else projected


def _refuse_non_finite(products):
    """Finite products mean finite gradients. On CUDA the host would have to wait for them."""
    if math.isfinite(sum(map(sum, products))):
        return
    for i, (product, norm_f, norm_r) in enumerate(products):
        for name, value in (("grads_f", norm_f), ("grads_r", norm_r), ("grads_f", product)):
            if not math.isfinite(value):
                raise ValueError(
                    f"{name}[{i}]: holds NaN or infinity, or its square overflows; want finite gradients"
                )
