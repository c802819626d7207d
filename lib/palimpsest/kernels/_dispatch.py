"""What every op shares: argument checks, the choice of a backend, and the record of what ran."""

import math

import torch

BACKENDS = ("reference", "triton")
CPU = torch.device("cpu")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

FEW = 48
"""So many results are added up sooner in Python than by a torch operation."""

_last: tuple[str, str] | None = None


class BackendUnavailableError(ValueError, RuntimeError):
    """A forced backend cannot run here: a wrong argument (ValueError) on this machine (RuntimeError)."""


def last_backend() -> str | None:
    """``"<op>: <backend>"`` of the latest call in this process, or None before the first one.

    Backends are ``reference``, ``triton``, ``triton-interpreted`` and the name of the op's torch path.
    """
    return None if _last is None else ": ".join(_last)


def triton_mode() -> tuple[str | None, str]:
    """``("compiled" | "interpreted", "")``, or ``(None, reason)`` where Triton cannot be used at all.

    Triton reads TRITON_INTERPRET once, when it is imported, and fixes the kind of its own functions then.
    """
    try:
        import triton
        import triton.language as tl
    except ImportError as error:
        return None, f"triton cannot be imported: {error}"
    interpreted = not isinstance(tl.sum, triton.JITFunction)
    if interpreted != triton.knobs.runtime.interpret:
        return None, "TRITON_INTERPRET was changed after triton had been imported"
    return ("interpreted" if interpreted else "compiled"), ""


def choose(op: str, backend: str | None, device: torch.device, torch_path: str) -> str:
    """The backend that will run, recorded for ``last_backend``.

    Args:
        op: name of the op.
        backend: None, "reference" or "triton", as the caller gave it.
        device: where the tensors are.
        torch_path: name of the op's fastest torch path, taken on CPU and where CUDA has no compiled Triton.

    Returns:
        "reference", "triton" or `torch_path`.

    Raises:
        ValueError: `backend` is not one of the three.
        BackendUnavailableError: Triton was forced where it cannot run.
    """
    global _last
    if backend is None and device == CPU:  # first, and not by its type, a new string: small calls wait for each line
        _last = op, torch_path
        return torch_path
    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"backend: got {backend!r}, want None or one of {', '.join(map(repr, BACKENDS))}")
    chosen, ran_as = backend or torch_path, backend or torch_path
    if backend == "triton" or (backend is None and device.type == "cuda"):
        mode, reason = triton_mode()
        if mode == "compiled" and device.type != "cuda":
            mode, reason = None, f"the tensors are on {device.type}, and TRITON_INTERPRET=1 is not set"
        if backend == "triton" and mode is None:
            raise BackendUnavailableError(f"backend: 'triton' cannot run here: {reason}")
        if mode == "compiled" or backend == "triton":
            chosen, ran_as = "triton", "triton" if mode == "compiled" else "triton-interpreted"
    _last = op, ran_as
    return chosen


def require_float_tensor(name: str, value: object, shape: str) -> None:
    """Refuse what is not a floating-point tensor with the dimensions of `shape`, such as ``"[N, D]"``."""
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{name}: got {type(value).__name__}, want a tensor {shape}")
    if value.dtype not in FLOATS:
        raise ValueError(f"{name}: got dtype {value.dtype}, want float16, bfloat16, float32 or float64")
    if value.ndim != shape.count(",") + 1:
        raise ValueError(f"{name}: got shape {list(value.shape)}, want {shape}")


def require_matrices(name: str, value: object, shape: str, other_name: str, other: object, other_shape: str) -> None:
    """Refuse what is not two floating-point matrices, with the dimensions of `shape` and `other_shape`, of one
    dtype and device. Asks first whether all is well: small calls would wait for one question after the other."""
    if (
        isinstance(value, torch.Tensor)
        and isinstance(other, torch.Tensor)
        and value.dtype == other.dtype
        and value.ndim == other.ndim == 2
        and value.device == other.device
        and value.dtype in FLOATS
    ):
        return
    require_float_tensor(name, value, shape)
    require_float_tensor(other_name, other, other_shape)
    require_same_kind(other_name, other, name, value)


def require_same_kind(name: str, value: torch.Tensor, other_name: str, other: torch.Tensor) -> None:
    """Refuse two tensors that differ in dtype or device."""
    for what, got, want in (("dtype", value.dtype, other.dtype), ("device", value.device, other.device)):
        if got != want:
            raise ValueError(f"{name}: got {what} {got}, want that of {other_name}, {want}")


def all_finite(result: torch.Tensor) -> bool:
    """Whether `result` [N], whose squares' sum cannot overflow, holds neither NaN nor infinity. On CUDA it is not
    looked at.

    A row of logits without a softmax makes NaN of each result that it enters, so this tells on CPU, at the cost
    of one pass over the result, whether `require_distribution` need read the logits to name that row.
    """
    if result.is_cuda:
        return True
    if result.numel() <= FEW:
        return math.isfinite(sum(result.tolist()))
    if result.requires_grad:
        result = result.detach()
    return math.isfinite(result.dot(result).item())


def require_distribution(name: str, logits: torch.Tensor) -> None:
    """Refuse rows of `logits` [R, D] whose softmax is undefined: NaN, +inf, or -inf throughout.

    On CPU this costs one read: the row maximum shows all three, and the sum of the maxima shows them for all
    rows at once. On CUDA nothing is checked, since the host would have to wait for the answer: there such a
    row gives NaN wherever it is used, as it does in torch.softmax. Where the result shows it, `all_finite`
    costs less.
    """
    if logits.is_cuda:
        return
    top = logits.detach().amax(-1)
    if math.isfinite(top.sum(dtype=torch.float64)):
        return
    bad = (~torch.isfinite(top)).nonzero()
    if len(bad) == 0:  # the maxima are finite, only their sum is not
        return
    raise ValueError(
        f"{name}: row {int(bad[0, 0])} holds NaN or +inf, or only -inf; want finite logits or -inf "
        "(probability zero), at least one of them finite"
    )
