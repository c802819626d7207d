"""What the Triton kernels of the multi-tensor ops share: how a program loads and stores its chunk of a tensor."""

import torch
import triton
import triton.language as tl

TYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}
INTERPRETED = tl.constexpr(not isinstance(tl.sum, triton.JITFunction))


@triton.jit
def load(base, offsets, n, ALIGNED: tl.constexpr, MASKED: tl.constexpr):
    """Elements `offsets` of a tensor of n, 0 past the end. Without mask where none is needed: a mask of unknown
    length forbids loading several elements at once."""
    address = base + offsets
    if ALIGNED:
        address = tl.multiple_of(address, 16)
    return tl.load(address, offsets < n, 0.0) if MASKED else tl.load(address)


@triton.jit
def store(base, offsets, x, n, ALIGNED: tl.constexpr, MASKED: tl.constexpr):
    """The counterpart of load; x has the dtype of the tensor."""
    address = base + offsets
    if ALIGNED:
        address = tl.multiple_of(address, 16)
    if MASKED:
        tl.store(address, x, offsets < n)
    else:
        tl.store(address, x)


@triton.jit
def narrow(x, TYPE: tl.constexpr):
    """x rounded to TYPE. The interpreter cuts float32 off to bfloat16, so there its bits are rounded first."""
    if INTERPRETED and tl.bfloat16 == TYPE:
        bits = x.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        x = tl.where(x == x, bits.to(tl.float32, bitcast=True), x)
    return x.to(TYPE)
