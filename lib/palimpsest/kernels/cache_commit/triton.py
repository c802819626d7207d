"""Triton kernel: one launch moves the rows of all layers whose heads and row width agree."""

import torch
import triton
import triton.language as tl

BITS = {2: tl.int16, 4: tl.int32, 8: tl.int64}
"""Rows are moved as integers of the same size, so every bit survives."""
ENTRIES = tl.constexpr(6)
"""Of a table row: address, S, and the four strides of a tensor."""

TILE = 4096
"""Elements of a row across the heads of one program, 32 for each thread of 4 warps."""


@triton.jit
def _move_rows(
    table, accepted, prefix_len, count, accepted_stride, heads, width,
    BITS: tl.constexpr, RAGGED: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Some heads of one request in one tensor, row by row in order: README.md says why that is safe."""
    row = table + tl.program_id(0) * ENTRIES
    b = tl.program_id(1).to(tl.int64)
    h = tl.program_id(2).to(tl.int64) * HEADS + tl.arange(0, HEADS)
    d = tl.arange(0, DIM).to(tl.int64)
    size, stride_s = tl.load(row + 1), tl.load(row + 4)
    at = tl.load(row).to(tl.pointer_type(BITS)) + b * tl.load(row + 2)
    at = at + h[:, None] * tl.load(row + 3) + d[None, :] * tl.load(row + 5)
    inside = (h < heads)[:, None] & (d < width)[None, :]
    prefix = tl.load(prefix_len + b) if RAGGED else prefix_len
    for i in range(0, count):
        place = tl.load(accepted + b * accepted_stride + i)
        source = prefix + place
        if (place > i) & (prefix >= 0) & (source < size):
            tl.store(at + (prefix + i) * stride_s, tl.load(at + source * stride_s, inside), inside)


def move_(tensors, paths, ends):
    """As reference.move_, for n above 0 and tensors that are not empty."""
    device, batch = tensors[0].device, len(tensors[0])
    ragged = isinstance(ends, torch.Tensor)
    paths = paths.contiguous().to(device)
    ends = ends.contiguous().to(device) if ragged else ends
    kinds = [(x.shape[1], x.shape[3], x.element_size()) for x in tensors]
    for kind in dict.fromkeys(kinds):
        group = [x for x, other in zip(tensors, kinds, strict=True) if other == kind]
        heads, width, itemsize = kind
        table = torch.tensor([[x.data_ptr(), x.shape[2], *x.stride()] for x in group], dtype=torch.int64)
        if device.type == "cuda":
            table = table.pin_memory()
        dim = triton.next_power_of_2(width)
        block = min(triton.next_power_of_2(heads), max(1, TILE // dim))
        _move_rows[(len(group), batch, triton.cdiv(heads, block))](
            table.to(device, non_blocking=True), paths, ends, paths.shape[-1],
            paths.shape[1] if paths.ndim == 2 else 0, heads, width,
            BITS=BITS[itemsize], RAGGED=ragged, HEADS=block, DIM=dim,
        )  # fmt: skip
    torch.autograd.graph.increment_version(tensors)
