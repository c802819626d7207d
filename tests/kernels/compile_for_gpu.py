"""Compile for a GPU, without one, every kernel that a call launches.

Run as a script, with TRITON_INTERPRET unset. Host code runs on CPU tensors with the blocks it would choose on
a GPU; each launch is replaced by a compilation for compute capability 9.0. Prints one kernel name a line.
"""

import itertools

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from palimpsest.kernels.jensen_shannon import triton as jensen_shannon
from palimpsest.kernels.softmax_entropy import triton as softmax_entropy

TARGET = GPUTarget("cuda", 90, 32)
POINTERS = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.float64: "*fp64"}


def compile_instead(kernel, *args, grid, warmup, **constants):
    signature, values = {}, {}
    for name, value in itertools.chain(zip(kernel.arg_names, args, strict=False), constants.items()):
        if isinstance(value, torch.Tensor):
            signature[name] = POINTERS[value.dtype]
        elif name in constants:
            signature[name], values[name] = "constexpr", value
        else:
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(name),): v for name, v in values.items()})
    assert triton.compile(source, target=TARGET).asm["cubin"]
    print(kernel.__name__)


def launch_jensen_shannon():
    p, q = (torch.zeros(rows, 10, dtype=torch.bfloat16) for rows in (300, 70))
    value = jensen_shannon.forward(p, q)
    jensen_shannon.backward(p, q, value)


def launch_softmax_entropy():
    logits = torch.zeros(300, 5000, dtype=torch.bfloat16)
    entropy, *statistics = softmax_entropy.forward(logits)
    softmax_entropy.backward(logits, *statistics, entropy)


if __name__ == "__main__":
    triton.JITFunction.run = compile_instead
    launch_jensen_shannon()
    launch_softmax_entropy()
