"""AdamW on the surviving weights of pruned tensors, in place. Derivation: README.md."""

import math
from numbers import Real

import torch

from palimpsest.kernels import _dispatch, _multi_tensor
from palimpsest.kernels.masked_adamw_ import chunked, reference
from palimpsest.kernels.tolerances import accumulation_dtype


def pack_mask(mask: torch.Tensor) -> torch.Tensor:
    """Bits of a bool tensor of n elements, [ceil(n / 8)] uint8: element i is bit i % 8 of byte i // 8."""
    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise ValueError(f"mask: got {got}, want a bool tensor")
    bits = torch.nn.functional.pad(mask.flatten().to(torch.uint8), (0, -mask.numel() % 8)).view(-1, 8)
    return (bits << torch.arange(8, dtype=torch.uint8, device=mask.device)).sum(1, dtype=torch.uint8)


@torch.no_grad()
def masked_adamw_(
    params: list[torch.Tensor],
    grads: list[torch.Tensor],
    exp_avg: list[torch.Tensor],
    exp_avg_sq: list[torch.Tensor],
    masks: list[torch.Tensor],
    scales: list[torch.Tensor] | None,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    backend: str | None = None,
) -> None:
    """One step of AdamW where the mask is True; elsewhere parameters and moments keep every bit.

    AdamW: Loshchilov and Hutter, arXiv 1711.05101, algorithm 2, as torch.optim.AdamW computes it. Stated by SAU
    (arXiv 2602.00577, abstract): updates go to surviving weights, and importance redistributes them. Our reading:
    the scale multiplies the direction after Adam, which would undo a scale on the gradient, and weight decay is
    not scaled. Two calls on equal inputs give the same bits.

    Args:
        params: T tensors of any shapes, float16, bfloat16, float32 or float64, any strides. Updated.
        grads: their gradients, same shapes and dtypes. Values under the mask are not looked at, even NaN.
        exp_avg: first moments, same shapes, in the parameter's dtype or float32 for half precision. Updated.
        exp_avg_sq: second moments, in the dtype of the first ones. Updated.
        masks: True where a weight survives: bool of the parameter's shape, or the bits that `pack_mask` gives.
        scales: the importance scales c, same shapes, in the parameter's dtype or float32 for half precision; or
            None, which stands for 1.
        step: number of this step, from 1.
        lr: learning rate, not negative.
        betas: decay rates of the moments, each in [0, 1).
        eps: added to the root of the second moment, above 0.
        weight_decay: decoupled, not negative; multiplied by lr.
        backend: None takes Triton on CUDA tensors and the chunked torch path on CPU; "reference" is the plain
            definition; "triton" on CPU tensors needs TRITON_INTERPRET=1 before triton is first imported.

    Raises:
        ValueError: not lists of floating-point tensors, unequal lengths, shapes, dtypes or devices, a mask
            that is neither, a tensor to update whose elements share memory, a number outside its range, or an
            unknown backend. Nothing is updated then.
        BackendUnavailableError: "triton" forced where it cannot run; it says why.
    """
    given = [("params", params), ("grads", grads), ("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq)]
    if scales is not None:
        given.append(("scales", scales))
    for name, tensors in given:
        _multi_tensor.require_float_tensors(name, tensors)
    _multi_tensor.require_like("grads", grads, "params", params, same_dtype=True)
    _require_like_or_wider("exp_avg", exp_avg, params)
    _multi_tensor.require_like("exp_avg_sq", exp_avg_sq, "exp_avg", exp_avg, same_dtype=True)
    if scales is not None:
        _require_like_or_wider("scales", scales, params)
    for name, tensors in (given[0], *given[2:4]):
        _multi_tensor.require_own_memory(name, tensors)
    _require_masks(masks, params)
    _require_numbers(step, lr, betas, eps, weight_decay)
    device = params[0].device if params else torch.device("cpu")
    chosen = _dispatch.choose("masked_adamw_", backend, device, "torch-chunked")
    if not params:
        return
    if chosen == "reference":
        path = reference
    elif chosen == "triton":
        _multi_tensor.refuse_interpreted_cuda(device)
        from palimpsest.kernels.masked_adamw_ import triton as path
    else:
        path = chunked
    updated = [[x.contiguous() for x in tensors] for tensors in (params, exp_avg, exp_avg_sq)]
    read = [[x.contiguous() for x in tensors] for tensors in (grads, masks)]
    path.update_(*updated, *read, scales and [x.contiguous() for x in scales], step, lr, betas, eps, weight_decay)
    for tensors, contiguous in zip((params, exp_avg, exp_avg_sq), updated, strict=True):
        for x, y in zip(tensors, contiguous, strict=True):
            if x is not y:
                x.copy_(y)


def _require_like_or_wider(name, tensors, params):
    _multi_tensor.require_like(name, tensors, "params", params, same_dtype=False)
    for i, (value, param) in enumerate(zip(tensors, params, strict=True)):
        if value.dtype != param.dtype and value.dtype != accumulation_dtype(param.dtype):
            raise ValueError(
                f"{name}[{i}]: got dtype {value.dtype}, want that of params[{i}], {param.dtype}, "
                f"or {accumulation_dtype(param.dtype)}"
            )


def _require_masks(masks, params):
    if not isinstance(masks, list | tuple):
        raise ValueError(f"masks: got {type(masks).__name__}, want a list of tensors")
    if len(masks) != len(params):
        raise ValueError(f"masks: got {len(masks)} tensors, want as many as params, {len(params)}")
    for i, (mask, param) in enumerate(zip(masks, params, strict=True)):
        if not isinstance(mask, torch.Tensor):
            raise ValueError(f"masks[{i}]: got {type(mask).__name__}, want a tensor")
        packed = (-(-param.numel() // 8),)
        if mask.shape != {torch.bool: param.shape, torch.uint8: packed}.get(mask.dtype):
            raise ValueError(
                f"masks[{i}]: got {mask.dtype} {list(mask.shape)}, want torch.bool {list(param.shape)} "
                f"or its bits from pack_mask, torch.uint8 {list(packed)}"
            )
        if mask.device != param.device:
            raise ValueError(f"masks[{i}]: got device {mask.device}, want that of params[{i}], {param.device}")


def _require_numbers(step, lr, betas, eps, weight_decay):
    if not isinstance(step, int) or isinstance(step, bool) or step < 1:
        raise ValueError(f"step: got {step!r}, want an integer from 1")
    for name, value, positive in (("lr", lr, False), ("eps", eps, True), ("weight_decay", weight_decay, False)):
        if not isinstance(value, Real) or not math.isfinite(value) or value < 0 or (positive and value == 0):
            raise ValueError(f"{name}: got {value!r}, want a finite number {'above 0' if positive else 'from 0'}")
    if not isinstance(betas, list | tuple) or len(betas) != 2:
        raise ValueError(f"betas: got {betas!r}, want two numbers")
    for i, beta in enumerate(betas):
        if not isinstance(beta, Real) or not 0 <= beta < 1:
            raise ValueError(f"betas[{i}]: got {beta!r}, want a number in [0, 1)")
