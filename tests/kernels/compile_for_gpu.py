"""Compile for a GPU, without one, every kernel that a call launches.

Run as a script, with TRITON_INTERPRET unset. Host code runs on CPU tensors with the blocks it would choose on
a GPU; each launch is replaced by a compilation for compute capability 9.0. Prints one kernel name a line.
"""

import itertools

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from palimpsest.kernels.cache_commit import triton as cache_commit
from palimpsest.kernels.jensen_shannon import triton as jensen_shannon
from palimpsest.kernels.lsq_quantize import triton as lsq_quantize
from palimpsest.kernels.masked_adamw_ import pack_mask
from palimpsest.kernels.masked_adamw_ import triton as masked_adamw_
from palimpsest.kernels.project_orthogonal import triton as project_orthogonal
from palimpsest.kernels.softmax_entropy import triton as softmax_entropy
from palimpsest.kernels.token_logprob import triton as token_logprob
from palimpsest.kernels.topk_confidence import triton as topk_confidence
from palimpsest.kernels.tree_attention import triton as tree_attention

TARGET = GPUTarget("cuda", 90, 32)
POINTERS = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.float64: "*fp64"}
POINTERS |= {torch.int64: "*i64", torch.int32: "*i32", torch.int16: "*i16", torch.uint8: "*u8"}


def compile_instead(kernel, *args, grid, warmup, **constants):
    signature, values = {}, {}
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages") if name in constants}
    for name, value in itertools.chain(zip(kernel.arg_names, args, strict=False), constants.items()):
        if isinstance(value, torch.Tensor):
            signature[name] = POINTERS[value.dtype]
        elif name in constants:
            signature[name], values[name] = "constexpr", value
        else:
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(name),): v for name, v in values.items()})
    assert triton.compile(source, target=TARGET, options=options).asm["cubin"]
    print(kernel.__name__)


def launch_jensen_shannon():
    p, q = (torch.zeros(rows, 10, dtype=torch.bfloat16) for rows in (300, 70))
    value, *statistics = jensen_shannon.forward(p, q)
    jensen_shannon.backward(p, q, *statistics, value)


def launch_softmax_entropy():
    logits = torch.zeros(300, 5000, dtype=torch.bfloat16)
    entropy, *statistics = softmax_entropy.forward(logits)
    softmax_entropy.backward(logits, *statistics, entropy)


def launch_lsq_quantize():
    steps = ((torch.ones(()), 0), (torch.ones(8), 1), (torch.ones(300), 2))
    for dtype, cases in ((torch.bfloat16, steps), (torch.float32, steps[2:]), (torch.float64, steps[1:2])):
        x = torch.zeros(16, 8, 300, dtype=dtype)
        for step, axis in cases:
            lsq_quantize.forward(x, step, -8, 7, axis)
            lsq_quantize.backward(x, step, x, -8, 7, axis)


def launch_token_logprob():
    for dtype in (torch.bfloat16, torch.float32):
        hidden, weight = torch.zeros(300, 576, dtype=dtype), torch.zeros(1000, 576, dtype=dtype)
        targets = torch.zeros(300, dtype=torch.int64)
        value, *kept = token_logprob.forward(hidden, weight, targets, True)
        token_logprob.backward(value, hidden, weight, targets, *kept, (True, True))


def launch_project_orthogonal():
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        grads = [torch.zeros(5000, dtype=dtype), torch.zeros(7, dtype=dtype)]
        project_orthogonal.project(grads, grads, 1.0, "always", "model")
        project_orthogonal.project(grads, grads, 1.0, "conflict", "layer")


def launch_masked_adamw_():
    numbers = (3, 1e-3, (0.9, 0.999), 1e-8, 0.1)
    for dtype, moment in ((torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2):
        param, exp_avg = [torch.zeros(5000, dtype=dtype)], [torch.zeros(5000, dtype=moment)]
        mask = [torch.ones(5000, dtype=torch.bool)]
        masked_adamw_.update_(param, exp_avg, exp_avg, param, mask, None, *numbers)
        masked_adamw_.update_(param, exp_avg, exp_avg, param, [pack_mask(mask[0])], param, *numbers)


def launch_topk_confidence():
    topk_confidence.topk_confidence(torch.zeros(64, 50_000, dtype=torch.bfloat16), 10)


def launch_tree_attention():
    ancestors, lengths = torch.ones(40, 40, dtype=torch.bool), torch.tensor([900])
    for dtype, prefix_len in ((torch.bfloat16, 960), (torch.float32, 960), (torch.float64, lengths)):
        q, k = torch.zeros(1, 9, 40, 64, dtype=dtype), torch.zeros(1, 3, 1000, 64, dtype=dtype)
        tree_attention.tree_attention(q, k, k, ancestors, prefix_len, 0.125)


def launch_cache_commit():
    for dtype, lengths in ((torch.bfloat16, 7), (torch.float32, torch.tensor([7, 3])), (torch.float64, 7)):
        caches = [torch.zeros(2, 3, 20, 64, dtype=dtype)] * 2
        cache_commit.move_(caches, torch.tensor([1, 2]), lengths)


if __name__ == "__main__":
    triton.JITFunction.run = compile_instead
    launch_jensen_shannon()
    launch_softmax_entropy()
    launch_lsq_quantize()
    launch_token_logprob()
    launch_project_orthogonal()
    launch_masked_adamw_()
    launch_topk_confidence()
    launch_tree_attention()
    launch_cache_commit()
