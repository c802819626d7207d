"""Log-probability of given tokens from hidden states and output embedding. Derivation: README.md."""

import math

import torch
from torch.autograd.function import once_differentiable

from palimpsest.kernels import _dispatch
from palimpsest.kernels.token_logprob import chunked, reference

INTEGERS = (torch.int64, torch.int32)


class _TokenLogprob(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, path, with_gradient):
        value, *kept = path.forward(hidden, weight, targets, with_gradient)
        ctx.save_for_backward(hidden, weight, targets, *kept)
        ctx.path = path
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        return *ctx.path.backward(grad_output, *ctx.saved_tensors, ctx.needs_input_grad[:2]), None, None, None


def token_logprob(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, backend: str | None = None
) -> torch.Tensor:
    """ln softmax(hidden weight^T)[t, targets[t]] in nats, without holding the T x V logits.

    The log-likelihood of a token under a language model's last layer. NPO (Zhang et al., 2024, equation 3),
    SimNPO, DPO and the metrics of TOFU (Maini et al., 2024, section 2.2) are functions of it. Differentiable
    once in hidden and weight; two calls give the same bits. "reference" does hold T x V; so does the torch path
    where T x V is at most 2^20, or 2^22 if the gradient of weight is recorded, and it is then differentiable more
    than once.

    Args:
        hidden: [T, D] float16, bfloat16, float32 or float64, any strides.
        weight: [V, D] output embedding, same dtype and device.
        targets: [T] int32 or int64, each in 0 ... V - 1, same device. Leave padding out, or weigh it by 0.
        backend: None takes Triton on CUDA tensors and the chunked torch path on CPU; "reference" is the plain
            definition; "triton" on CPU tensors needs TRITON_INTERPRET=1 before triton is first imported.

    Returns:
        [T] float32, or float64 for float64 input; empty where T is 0.

    Raises:
        ValueError: not a tensor, wrong number of dimensions, wrong dtype, unequal D, T, dtype or device, D or V
            is 0, unknown backend; on CPU also a target outside 0 ... V - 1, or NaN or infinity in hidden or weight
            that reaches the result (on CUDA such a target gives -inf or NaN, and NaN gives NaN).
        BackendUnavailableError: "triton" forced where it cannot run; it says why.
    """
    if backend is None and (value := _at_once(hidden, weight, targets)) is not None:
        return value
    tokens, vocabulary = _sizes(hidden, weight, targets)
    chosen = _dispatch.choose("token_logprob", backend, hidden.device, "torch-chunked")
    if targets.dtype != torch.int64:
        targets = targets.long()
    if chosen == "triton" or tokens * vocabulary > chunked.TILE:
        _require_in_vocabulary(targets, vocabulary)
    graph = (hidden.requires_grad or weight.requires_grad) and torch.is_grad_enabled()
    if chosen == "reference" or tokens == 0:
        value = _looked_up(reference.token_logprob, hidden, weight, targets)
    elif chosen == "torch-chunked" and not hidden.is_cuda and (not graph or _few(tokens * vocabulary, weight)):
        value = _looked_up(reference.token_logprob if graph else chunked.value, hidden, weight, targets)
    else:
        if chosen == "triton":
            from palimpsest.kernels.token_logprob import triton as path
        else:
            path = chunked
        if graph:
            value = _TokenLogprob.apply(hidden, weight, targets, path, hidden.requires_grad)
        else:
            value = path.forward(hidden, weight, targets, False)[0]
    _require_finite(value, hidden, weight)
    return value


def _at_once(hidden, weight, targets):
    """The values of a few tokens on CPU without a graph, or None wherever something is unusual or wrong.

    Such a call takes some dozen microseconds, and would wait for each question that `_sizes` and its like ask. Most
    of them torch asks itself; the rest is asked here, and whoever fails either is told why by the longer way.
    """
    try:
        (tokens, width), (vocabulary, _) = hidden.shape, weight.shape
        if (
            hidden.is_cpu
            and hidden.dtype in chunked.ACCUMULATORS
            and targets.dtype == torch.int64
            and 0 < tokens <= _dispatch.FEW
            and width > 0
            and tokens * vocabulary <= chunked.TILE
            and not ((hidden.requires_grad or weight.requires_grad) and torch.is_grad_enabled())
        ):
            value = chunked.value_of_few(hidden, weight, targets)
            found = value.tolist()
            if math.isfinite(sum(found)) and 0.0 not in found:
                _dispatch.choose("token_logprob", None, _dispatch.CPU, "torch-chunked")
                return value
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        pass
    return None


def _few(logits, weight):
    """Whether so many logits are held at once, as the definition does, though a gradient is wanted."""
    return logits <= (chunked.RECORDED if weight.requires_grad else chunked.TILE)


def _looked_up(function, hidden, weight, targets):
    """On CPU the gather that takes the targets' logits looks at each itself, which spares few logits a check."""
    try:
        return function(hidden, weight, targets)
    except RuntimeError:
        _require_in_vocabulary(targets, len(weight))
        raise


def _sizes(hidden, weight, targets):
    """T and V. Asks first whether all is well: small calls would wait for one question after the other."""
    if (
        isinstance(hidden, torch.Tensor)
        and isinstance(weight, torch.Tensor)
        and isinstance(targets, torch.Tensor)
        and hidden.ndim == weight.ndim == 2
        and hidden.dtype == weight.dtype
        and hidden.dtype in _dispatch.FLOATS
        and targets.dtype in INTEGERS
        and hidden.device == weight.device == targets.device
    ):
        (tokens, width), (vocabulary, weight_width) = hidden.shape, weight.shape
        if width == weight_width > 0 < vocabulary and targets.shape == (tokens,):
            return tokens, vocabulary
    _dispatch.require_matrices("hidden", hidden, "[T, D]", "weight", weight, "[V, D]")
    if 0 in (hidden.shape[1], *weight.shape):
        raise ValueError(f"weight: got shape {list(weight.shape)}, want [V, D] with V and D at least 1")
    if hidden.shape[1] != weight.shape[1]:
        raise ValueError(f"weight: got D = {weight.shape[1]}, want that of hidden, {hidden.shape[1]}")
    if not isinstance(targets, torch.Tensor):
        raise ValueError(f"targets: got {type(targets).__name__}, want a tensor [T]")
    if targets.dtype not in INTEGERS:
        raise ValueError(f"targets: got dtype {targets.dtype}, want int32 or int64")
    if targets.shape != hidden.shape[:1]:
        raise ValueError(f"targets: got shape {list(targets.shape)}, want [T] = [{len(hidden)}]")
    raise ValueError(f"targets: got device {targets.device}, want that of hidden, {hidden.device}")


def _require_in_vocabulary(targets, vocabulary):
    if targets.is_cuda or len(targets) == 0:  # the host would have to wait for CUDA's answer
        return
    low, high = (bound.item() for bound in targets.aminmax())
    if low < 0 or high >= vocabulary:
        raise ValueError(f"targets: got {low if low < 0 else high}, want 0 ... {vocabulary - 1}")


def _require_finite(value, hidden, weight):
    """Looks at the T results: NaN or infinity in the input shows there, and a read of V x D is spared."""
    if _dispatch.all_finite(value) or torch.isfinite(value).all():
        return
    for name, x in (("hidden", hidden), ("weight", weight)):
        if not torch.isfinite(x).all():
            raise ValueError(f"{name}: got NaN or infinity, want finite numbers")
    raise ValueError("hidden: its products with weight overflow; want logits that are finite")
