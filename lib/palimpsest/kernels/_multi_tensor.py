"""What the multi-tensor ops share: checks of lists, and the table by which one launch reaches every tensor."""

import struct
from collections.abc import Sequence
from operator import attrgetter

import torch

from palimpsest.kernels import _dispatch

KINDS = {True: attrgetter("shape", "device", "dtype"), False: attrgetter("shape", "device")}
"""What partners share, with and without the dtype."""

TENSORS = {torch.Tensor, torch.nn.Parameter}
"""Known without asking for their bases."""


def require_partners(name: str, tensors: object, other_name: str, others: object) -> list[tuple]:
    """Refuse what is not two lists of floating-point tensors on one device, pairwise of one shape and dtype.

    Lists are compared whole, to learn that all is well; a line of Python for each of many small tensors would cost as
    much as the op itself. What is wrong is looked for afterwards.

    Returns:
        (shape, device, dtype) of every pair.
    """
    if type(tensors) is type(others) is list and TENSORS.issuperset(map(type, tensors + others)):
        kinds = list(map(KINDS[True], tensors))
        common = {kind[1:] for kind in kinds}
        well = len(common) <= 1 and all(dtype in _dispatch.FLOATS for _, dtype in common)
        if well and kinds == list(map(KINDS[True], others)):
            return kinds
    require_float_tensors(name, tensors)
    require_float_tensors(other_name, others)
    require_like(other_name, others, name, tensors, same_dtype=True)
    return list(map(KINDS[True], tensors))


def require_float_tensors(name: str, tensors: object) -> None:
    """Refuse what is not a list or tuple of floating-point tensors, all on one device."""
    if not isinstance(tensors, list | tuple):
        raise ValueError(f"{name}: got {type(tensors).__name__}, want a list of tensors")
    for i, value in enumerate(tensors):
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{name}[{i}]: got {type(value).__name__}, want a tensor")
        if value.dtype not in _dispatch.FLOATS:
            raise ValueError(f"{name}[{i}]: got dtype {value.dtype}, want float16, bfloat16, float32 or float64")
        if i and value.device != tensors[0].device:
            raise ValueError(f"{name}[{i}]: got device {value.device}, want that of {name}[0], {tensors[0].device}")


def require_like(
    name: str, tensors: list[torch.Tensor], other_name: str, others: list[torch.Tensor], same_dtype: bool
) -> None:
    """Refuse a list that is not as long as `others`, or whose shapes, devices or, if so wished, dtypes differ."""
    if len(tensors) != len(others):
        raise ValueError(f"{name}: got {len(tensors)} tensors, want as many as {other_name}, {len(others)}")
    kind = KINDS[same_dtype]
    got, want = list(map(kind, tensors)), list(map(kind, others))
    if got == want:
        return
    i = next(i for i in range(len(got)) if got[i] != want[i])
    for what, one, other in zip(("shape", "device", "dtype"), got[i], want[i], strict=False):
        if one != other:
            show = list if what == "shape" else str
            raise ValueError(f"{name}[{i}]: got {what} {show(one)}, want that of {other_name}[{i}], {show(other)}")


def require_own_memory(name: str, tensors: list[torch.Tensor]) -> None:
    """Refuse a tensor to write to whose elements share memory."""
    if all(map(torch.Tensor.is_contiguous, tensors)):
        return
    for i, x in enumerate(tensors):
        if any(stride == 0 and size > 1 for stride, size in zip(x.stride(), x.shape, strict=True)):
            raise ValueError(f"{name}[{i}]: got an expanded tensor, want one memory location for each element")


def refuse_interpreted_cuda(device: torch.device) -> None:
    """The interpreter runs on the host, where the addresses of a table of CUDA tensors mean nothing."""
    if device.type == "cuda" and _dispatch.triton_mode()[0] == "interpreted":
        raise _dispatch.BackendUnavailableError(
            "backend: 'triton' cannot run here: the tensors are on cuda, and TRITON_INTERPRET=1 is set"
        )


def table(
    scalars: list[float], columns: Sequence[Sequence[torch.Tensor]], numbers: Sequence[int], chunk: int
) -> tuple[torch.Tensor, int]:
    """One int64 tensor that tells every program of a launch where to work.

    It holds the bits of `scalars` as float64 (a launch would round them to float32), then for each tensor a row
    [elements, first program, number, address in each column], then the row that each program belongs to. A
    program takes `chunk` elements of one tensor.

    Args:
        scalars: S numbers.
        columns: lists of T contiguous tensors, equally long in elements.
        numbers: T integers, passed through.
        chunk: elements per program.

    Returns:
        [S + T (3 + len(columns)) + programs] int64 on the tensors' device, and the number of programs.
    """
    sizes = [x.numel() for x in columns[0]]
    counts = [-(-size // chunk) for size in sizes]
    entries = [struct.unpack("q", struct.pack("d", scalar))[0] for scalar in scalars]
    first = 0
    for size, count, number, *tensors in zip(sizes, counts, numbers, *columns, strict=True):
        entries += [size, first, number, *(x.data_ptr() for x in tensors)]
        first += count
    owners = torch.arange(len(sizes)).repeat_interleave(torch.tensor(counts, dtype=torch.int64))
    host = torch.cat([torch.tensor(entries, dtype=torch.int64), owners])
    device = columns[0][0].device
    if device.type == "cuda":
        host = host.pin_memory()
    return host.to(device, non_blocking=True), first


def aligned(columns: Sequence[Sequence[torch.Tensor]]) -> bool:
    """Whether every address is a multiple of 16 bytes, so that a GPU can load 16 at once."""
    return all(x.data_ptr() % 16 == 0 for column in columns for x in column)
