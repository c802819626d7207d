# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Kernels: from a formula to a tile
#
# | | |
# |---|---|
# | subject | the operations on which all five methods rest. One of them, the entropy of a softmax, is built here from its formula to a Triton kernel |
# | claims | none of a paper. What is said here is checked in this chapter, or was recorded by `palimpsest bench` |
# | needed | some torch; no Triton, no GPU |
# | profile | `ci`: about a minute on 1 CPU core, about 1 GB of memory, no GPU |
#
# **In one paragraph.** A formula of four operations, written in torch, walks through memory four times. Arithmetic is
# cheap and memory is slow, so the walks are what one waits for. A *kernel* is a small program that reads each number
# once, does all four operations while it has it, and writes the result. We derive one, run it on a CPU in Triton's
# interpreter, derive its gradient, say how exact it must be, break it to see that the tests notice, and compare the
# speed of all operations of this book with the limit that their bytes set.

# %% [markdown]
# ## Why it matters
#
# The entropy of a prediction says how unsure a model is. OEU maximises it on the data to be forgotten; SAGE decides
# by it how many tokens to guess ahead. For a language model with a vocabulary of 50,000 words, a batch of 4,000
# positions has 200 million logits, 800 MB in float32. Written the usual way, their entropy reads or writes such a
# matrix eight times, and holds three of them at once. The result is 4,000 numbers.
#
# **Arithmetic is cheap, bytes are dear.** A large GPU of 2022, NVIDIA's H100 SXM, is specified for $67 \cdot 10^{12}$
# float32 operations and $3.35 \cdot 10^{12}$ bytes per second. In the time in which one float32 arrives from memory it
# could do eighty operations. The entropy needs six for each logit. So its speed is decided by how often each logit
# crosses from memory to processor, and by nothing else; once is the least.
#
# torch runs one operation at a time, and each reads its whole input from memory and writes its whole output back. Two
# ways lead out: a compiler that *fuses* the operations (`torch.compile`), or a kernel that is written as one.
# [Triton](https://triton-lang.org) {cite:p}`tillet2019triton` is a language for such kernels: a subset of Python,
# compiled for the GPU, in which one names a *tile*, a block of a tensor small enough to stay close to the processor,
# and says what is to happen to it.

# %% tags=["parameters"]
profile = "ci"
seed = 0

# %% tags=["hide-input"]
import palimpsest.chapters  # noqa: F401 (first: it pins the arithmetic)

# isort: split
import functools
import inspect
import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import triton
import triton.language as tl
from IPython.display import Markdown
from torch.utils._python_dispatch import TorchDispatchMode

from palimpsest import figures, kernels
from palimpsest.chapters.kernels import drawing, sentences
from palimpsest.chapters.kernels import figures as draw
from palimpsest.chapters.shared import page
from palimpsest.kernels.softmax_entropy import chunked, reference
from palimpsest.kernels.softmax_entropy import triton as library
from palimpsest.kernels.tolerances import admitted_error, tolerance

lengths = page.begin(
    profile,
    {
        "smoke": (16, 256),
        "ci": (16, 64, 256, 1_024, 4_096, 16_384, 65_536),
        "study": (16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144),
    },
)
device = "cuda" if torch.cuda.is_available() else "cpu"
generator = torch.Generator().manual_seed(seed)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "How often the entropy of a softmax walks through a matrix of logits: four operations in torch, one after the other, each reading its inputs from memory and writing its result back; below them one kernel, which reads every logit once.", "name": "fig-kernels-idea"}, "image": {"alt": "In torch eight walks through memory, one by a kernel."}}
figure = drawing.idea()

# %% [markdown]
# ## Notation
#
# | symbol | name in code | meaning |
# |---|---|---|
# | $z_k$ | `z`, shape $[N, K]$ | the $K$ logits of one of $N$ rows |
# | $p_k$ | `p` | $e^{z_k} / \sum_j e^{z_j}$, the softmax of the row |
# | $H$ | `entropy` | entropy of $p$, in nats |
# | $\hat z$ | `top` | $\max_k z_k$ |
# | $\delta_k$ | `distance` | $\hat z - z_k \ge 0$, how far a logit lies below the maximum |
# | $Z$ | `total` | $\sum_k e^{-\delta_k}$, between 1 and $K$ |
# | $W$ | `weighted` | $\sum_k \delta_k\, e^{-\delta_k} \ge 0$ |
# | $A$ | `weighted / total` | $W / Z$, the mean of $\delta_k$ under $p$ |
# | $u$ | `unit_roundoff(dtype)` | largest relative error of one rounding: $2^{-24}$ in float32, $2^{-11}$ in float16, $2^{-8}$ in bfloat16 |
# | $B$, $F$ | `bytes_moved`, `OPERATIONS` | bytes that must be read or written, operations that must be done |
# | $b$ | `gb_per_s / share_of_copy` | bandwidth: bytes per second that a large copy reads and writes |
#
# Logarithms are natural.

# %% [markdown]
# ## The formula
#
# $$H = -\sum_k p_k \ln p_k, \qquad p_k = \frac{e^{z_k}}{\sum_j e^{z_j}}, \qquad 0 \ln 0 = 0 \tag{1}$$
#
# Three lines of torch say it. They also fail: $e^{89}$ is more than a float32 can hold. The usual remedy is
# `log_softmax`, which first subtracts the row's maximum.


# %%
def entropy_naive(z):
    e = z.exp()
    p = e / e.sum(-1, keepdim=True)
    return -(p * p.log()).sum(-1)


def entropy_eager(z):
    log_p = z.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


z = 3 * torch.randn(5, 61, generator=generator)
exact = entropy_eager(z.double())


def largest_error(entropy):
    return f"{(entropy.double() - exact).abs().max():.0e} nats"


print("naive:           ", largest_error(entropy_naive(z)))
print("naive, z + 100:  ", largest_error(entropy_naive(z + 100)))
print("log_softmax:     ", largest_error(entropy_eager(z)))

# %% [markdown]
# **Counting bytes.** torch lets us watch each operation. Below, every tensor that an operation takes counts as read
# and every tensor that it gives as written; the unit is one matrix of logits, $4NK$ bytes. One unit (and $4N$ bytes
# for the result) is what any program must move.


# %%
class Traffic(TorchDispatchMode):
    moved = largest = 0  # bytes

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not func.is_view:
            tensors = [x for x in (*args, result) if isinstance(x, torch.Tensor)]
            self.moved += sum(x.nbytes for x in tensors)
            self.largest = max(self.largest, result.nbytes)
        return result


# %% tags=["nbval-check-output"]
many = torch.randn(512, 1_000, generator=generator)
for name, function in (("naive", entropy_naive), ("log_softmax", entropy_eager)):
    with Traffic() as traffic:
        function(many)
    moved, largest = (x / many.nbytes for x in (traffic.moved, traffic.largest))
    print(f"{name}: moves {moved:.1f} matrices, makes tensors of {largest:.0f} matrix")
with Traffic() as traffic:
    kernels.softmax_entropy(many)
tile_bytes = 4 * chunked.TILE
print(
    f"the library's torch path makes none of more than {tile_bytes:,} bytes:", end=" "
)
print(traffic.largest <= tile_bytes < many.nbytes)

# %% [markdown]
# Eight matrices instead of one. For the 800 MB above that is 6.4 GB of traffic, for 16 KB of result.

# %% [markdown]
# ## One walk, one equation at a time
#
# **Shifted.** With distances $\delta_k = \hat z - z_k$ below the maximum, $p_k = e^{-\delta_k} / Z$ and
# $\ln p_k = -\delta_k - \ln Z$. Put into (1), since $\sum_k p_k = 1$:
#
# $$H = \sum_k p_k\,(\delta_k + \ln Z) = \ln Z + \frac{W}{Z}, \qquad Z = \sum_k e^{-\delta_k}, \quad
# W = \sum_k \delta_k\, e^{-\delta_k}. \tag{2}$$
#
# The textbook has $H = \ln \sum_k e^{z_k} - \sum_k p_k z_k$, which is the same with $\hat z$ added on both sides of
# the minus sign. In (2) it is gone: no exponential exceeds 1, and no term is negative, so nothing cancels.


# %%
def sums(z):
    top = z.amax(-1)
    distance = top[:, None] - z
    e = (-distance).exp()
    return top, e.sum(-1), (e * distance).sum(-1)


def entropy_of(top, total, weighted):
    return total.log() + weighted / total


# z + 100 is rounded before any formula sees it, by up to 4e-6.
print("equation (2):         ", largest_error(entropy_of(*sums(z))))
print("equation (2), z + 100:", largest_error(entropy_of(*sums(z + 100))))

# %% [markdown]
# **Online.** (2) still needs two walks: one for the maximum, and one for the sums. But a maximum that turns out to be
# too low can be mended afterwards. Let a part of the row have been summed with its own maximum $\hat z$, and let
# $\hat z' = \hat z + r$ be a higher one. All its distances grow by the *rise* $r$, so
#
# $$Z' = \sum_k e^{-(\delta_k + r)} = Z\, e^{-r}, \qquad
# W' = \sum_k (\delta_k + r)\, e^{-(\delta_k + r)} = (W + r Z)\, e^{-r}. \tag{3}$$
#
# Two parts join by raising both to the higher of their maxima with (3), and adding. So one walk is enough: read a
# tile, sum it, join it to what was summed so far, forget it. This is the *online softmax* of
# [Milakov and Gimelshein](https://arxiv.org/abs/1805.02867), with $W$ carried along. We sum tiles of 7 logits and
# join them from left to right; 61 is no multiple of 7, and the last tile is shorter.


# %%
def raised(part, higher):
    top, total, weighted = part
    rise = higher - top
    factor = (-rise).exp()
    return total * factor, (weighted + rise * total) * factor


def join(first, second):
    higher = torch.maximum(first[0], second[0])
    total, weighted = map(
        sum, zip(*(raised(x, higher) for x in (first, second)), strict=True)
    )
    return higher, total, weighted


tiles = [sums(tile) for tile in z.split(7, dim=1)]
print("equation (3):", largest_error(entropy_of(*functools.reduce(join, tiles))))

# %% [markdown]
# ## A kernel for one row
#
# Now the same in Triton. Five things are new.
#
# - `@triton.jit` marks a function as a kernel, or as a part of one. It is started on a *grid*: `kernel[(n,)](…)` runs
#   $n$ copies, called *programs*, side by side.
# - A tensor arrives as a *pointer* to its first element. `z + k` is the address of element $k$, and if `k` is a tile
#   of numbers, it is a tile of addresses.
# - `tl.arange(0, TILE)` is such a tile. Its size must be a power of two that is known when the kernel is compiled: a
#   `tl.constexpr`.
# - `tl.load(address, mask, other)` reads where the mask holds and puts `other` elsewhere, without touching the
#   memory. That is how a row of any length fits tiles of one size.
# - What is between a load and a store stays in registers.
#
# First the part that joins a tile to the running sums, equation (3). The new maximum is at least that of the tile, so
# the tile needs no raising of its own.


# %%
@triton.jit
def add_tile(x, top, total, weighted):
    higher = tl.maximum(top, tl.max(x, 0))
    rise, distance = higher - top, higher - x
    factor, e = tl.exp(-rise), tl.exp(-distance)
    weighted = (weighted + rise * total) * factor + tl.sum(e * distance, 0)
    return higher, total * factor + tl.sum(e, 0), weighted


# %% [markdown]
# Then the walk. What would be $-\infty$ on paper, the maximum of nothing and the logit of no one, is $-10^{30}$: far
# enough that $e^{-\delta}$ is 0, and near enough that $0 \cdot \delta$ is 0 too, where $0 \cdot \infty$ is not a
# number.

# %%
FAR = tl.constexpr(-1e30)


@triton.jit
def entropy_of_row(z, entropy, width, TILE: tl.constexpr):
    top, total, weighted = FAR, 0.0, 0.0
    for start in range(0, width, TILE):
        k = start + tl.arange(0, TILE)
        x = tl.load(z + k, mask=k < width, other=FAR)
        top, total, weighted = add_tile(x, top, total, weighted)
    tl.store(entropy, tl.log(total) + weighted / total)


row = (3 * torch.randn(1, 1_003, generator=generator)).to(device)
entropy = torch.full((1,), float("nan"), device=device)
entropy_of_row[(1,)](row, entropy, row.shape[1], TILE=64)
print(f"kernel {entropy.item():.5f}, float64 {entropy_eager(row.double()).item():.5f}")

# %% [markdown]
# A GPU is not needed. With the environment variable `TRITON_INTERPRET=1`, which `palimpsest.chapters` sets where there
# is none, before `triton` is imported, the programs run one after the other, each operation on a tile being one of
# numpy. That is slow, and it is the same kernel, reading the same addresses under the same masks: what it computes can
# be tested on any machine.

# %% [markdown]
# ## All rows
#
# One program per row: `tl.program_id(0)` tells a program which one it is. The figure shows the division of labour. The
# address of row $n$ is $n$ times the *stride*, the distance in memory from a row to the next. It is given by the
# caller, so that a view needs no copy. And it is multiplied in 64 bits: 50,000 columns times 43,000 rows are more
# than $2^{31}$, and a 32-bit product would wrap around to an address before the tensor. `EXTRA` is there to break the
# kernel later; it is 0 in its right form.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Five rows of 13 logits under tiles of 4. Each row is one program; the number in a cell is the step of its loop that reads the cell. Look at the right edge: three places of the last tile lie outside the row, and only the mask keeps them from being read.", "name": "fig-kernels-tiles"}, "image": {"alt": "A grid of five rows and sixteen columns coloured by loop step 0 to 3; the last three columns are hatched and marked as masked."}}
figure, axis = plt.subplots(figsize=(7.2, 2.4))
for n in range(5):
    for k in range(16):
        inside, colour = k < 13, figures.COLOURS[k // 4]
        face = (*colour, 0.35) if inside else "none"
        hatch = None if inside else "///"
        axis.add_patch(plt.Rectangle((k, n), 1, 1, fc=face, ec="0.5", hatch=hatch))
        if inside:
            axis.text(k + 0.5, n + 0.5, k // 4, ha="center", va="center", fontsize=9)
axis.text(14.5, 5.4, "masked", ha="center", va="center", fontsize=9)
axis.set(xlim=(0, 16), ylim=(5, 0), xlabel="column k", aspect="equal")
axis.set_yticks([n + 0.5 for n in range(5)], [f"program {n}" for n in range(5)])
axis.set_xticks([k + 0.5 for k in range(0, 16, 4)], range(0, 16, 4))
axis.xaxis.tick_top()
axis.xaxis.set_label_position("top")
axis.grid(visible=False)


# %%
@triton.jit
def entropy_of_rows(z, entropy, width, stride, EXTRA: tl.constexpr, TILE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    top, total, weighted = FAR, 0.0, 0.0
    for start in range(0, width, TILE):
        k = start + tl.arange(0, TILE)
        x = tl.load(z + row * stride + k, k < width + EXTRA, FAR).to(tl.float32)
        top, total, weighted = add_tile(x, top, total, weighted)
    tl.store(entropy + row, tl.log(total) + weighted / total)


entropy = torch.full((len(z),), float("nan"), device=device)
entropy_of_rows[(len(z),)](z.to(device), entropy, 61, z.stride(0), EXTRA=0, TILE=32)
print("kernel:", largest_error(entropy.cpu()))

# %% [markdown]
# `.to(tl.float32)` after the load is the rule for 16-bit logits: read 2 bytes, compute in float32. The sums of a
# thousand terms then carry the errors of float32, and the traffic is half.

# %% [markdown]
# ## The library's kernel
#
# This is what `kernels.softmax_entropy` runs on a GPU, as it stands in the library:

# %% tags=["hide-input"]
Markdown(f"```python\n{inspect.getsource(library._entropy.fn)}```")

# %% [markdown]
# It is the loop above, with what a kernel needs that others are to rely on:
#
# | here | in the library | because |
# |---|---|---|
# | one row per program | a tile of `ROWS` × `COLUMNS` | ten classes do not fill a processor that works on 128 numbers at a time; many short rows do |
# | `row * stride + k` | two strides, `int64` for rows and columns | a transposed view has neighbours in another row |
# | `.to(tl.float32)` | `.to(ACC)` | float64 logits are summed in float64, which is what `gradcheck` needs |
# | $-10^{30}$ | distances cut at 1400 | logits of $-\infty$ are allowed: probability zero |
# | $Z$ | $R = Z - 1$, `others` | the maximum's own term, 1, would swallow the small ones: see below |
# | `tl.exp` | `tl.exp2`, base 2 | GPUs have an instruction for $2^x$, and make $e^x$ from it |
# | no row past the end | such rows repeat the last one and are not stored | the last tile may have too few rows, and an empty sum has no logarithm |
# | $H$ stored | $H$, $\hat z$, $1 + R$, $A$ | the backward pass starts from them |
#
# The fifth line matters where a model is sure. Take one logit of 30 and nine of 0. Then $Z = 1 + 9 e^{-30}$, and up
# to terms of the order $e^{-60}$ the entropy is $9 e^{-30} + 30 \cdot 9 e^{-30} = 279\, e^{-30}$. The first part is
# $\ln Z$; it is lost where nine terms of $e^{-30}$ are added to 1 in float32.

# %%
sure = torch.zeros(1, 10)
sure[0, 3] = 30
truth = 279 * math.exp(-30)
for name, value in (
    ("equation (2)", entropy_of(*sums(sure))),
    ("library", kernels.softmax_entropy(sure.to(device), backend="triton").cpu()),
):
    print(
        f"{name}: H = {value.item():.3e}, relative error {(value / truth - 1).item():+.0e}"
    )

# %% [markdown]
# ## Backward
#
# Training needs $\partial H / \partial z_k$. A change of the probabilities sums to zero, so (1) gives
# $\mathrm d H = -\sum_j (\ln p_j + 1)\, \mathrm d p_j = -\sum_j \ln p_j\, \mathrm d p_j$. With the softmax's
# $\partial p_j / \partial z_k = p_j ([j = k] - p_k)$, where $[j = k]$ is 1 if $j$ is $k$ and 0 otherwise,
#
# $$\frac{\partial H}{\partial z_k} = -p_k \ln p_k + p_k \sum_j p_j \ln p_j = -p_k\,(\ln p_k + H). \tag{4}$$
#
# Put $\ln p_k = -\delta_k - \ln Z$ and $H = \ln Z + A$ into it. The logarithms drop out:
#
# $$\frac{\partial H}{\partial z_k} = p_k\,(\delta_k - A), \qquad p_k = \frac{e^{-\delta_k}}{Z}. \tag{5}$$
#
# So three numbers per row, $\hat z$, $Z$ and $A$, are all that the forward pass must keep. The probabilities are
# computed again from the logits, which costs one exponential and saves a matrix. A logit that lies farther below the
# maximum than the average is pulled up, and one that lies above the average is pushed down: entropy grows. Given the
# row's numbers, every tile of (5) is independent, so the backward kernel has no loop: a load, a formula, a store.


# %%
def gradient(z, grad_output):
    top, total, weighted = (x[:, None] for x in sums(z))
    distance = top - z
    p = (-distance).exp() / total
    return grad_output[:, None] * p * (distance - weighted / total)


wide = z.double().requires_grad_()
rate = torch.linspace(-1, 1, len(z), dtype=torch.float64)
(by_autograd,) = torch.autograd.grad(entropy_eager(wide), wide, rate)
difference = (gradient(z, rate.float()) - by_autograd).abs().max()
print(f"equation (5), float32, against autograd in float64: {difference:.0e}")

# %% [markdown]
# `torch.autograd.gradcheck` compares a gradient with finite differences, in float64. It knows no formula, so it can
# find an error in the formula. Both implementations of the library pass; the gradient of $H$ with the sign of $A$
# reversed does not.


# %% tags=["nbval-check-output"]
class WrongSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return entropy_of(*sums(z))

    @staticmethod
    def backward(ctx, grad_output):
        (z,) = ctx.saved_tensors
        top, total, weighted = (x[:, None] for x in sums(z))
        p = z.softmax(-1)
        return grad_output[:, None] * p * (top - z + weighted / total)


small = torch.randn(3, 7, dtype=torch.float64, generator=generator).to(device)
for name, function in {
    "default": kernels.softmax_entropy,
    "triton": lambda z: kernels.softmax_entropy(z, backend="triton"),
    "wrong sign": WrongSign.apply,
}.items():
    passed = torch.autograd.gradcheck(
        function, (small.clone().requires_grad_(),), raise_exception=False
    )
    print(f"gradcheck, {name}: {passed}")

# %% [markdown]
# ## How exact must it be?
#
# "Close to float64" needs a number, and one that comes from the arithmetic and not from what happens to pass.
# Rounding a result to nearest changes it by at most $u$, relatively. Adding up $n$ terms rounds $n$ times, and if the
# roundings are independent and as often up as down, they add up like a random walk, in proportion to $\sqrt n$
# ([Higham and Mary 2019](https://doi.org/10.1137/18M1226312)). All tests and benchmarks of this book admit
#
# $$|\text{computed} - \text{exact}| \le
# \Bigl(8 \sqrt{n + 16}\; u_\text{sum} + u_\text{stored}\Bigr) \sum |\text{terms}| , \tag{6}$$
#
# where $u_\text{sum}$ belongs to the dtype that sums, float32 or float64, and $u_\text{stored}$ to a 16-bit dtype in
# which the result is stored (there is no second rounding for float32). A random walk of $n$ steps leaves the bound
# with probability below $2n\,e^{-8^2/2}$, a few in a hundred million at $n = 10^6$. The 16 stand for the roundings
# inside a term. What the terms are, each operation derives in its README and computes in its `reference.py`.


# %% tags=["hide-input"] mystnb={"figure": {"caption": "Largest error over 8 rows (solid) and the error that equation (6) admits (dashed), both relative to the sum of |terms|. Left: the entropy from the kernel, and from a sum in float32 that takes one term after another. Right: the gradient, stored in the dtype of the logits. Look at the orange line on the left, which rises with the dashed one, and at the 16-bit lines on the right, which are flat because the one rounding to 16 bits outweighs the sum. A solid line above its dashed one would be a bug.", "name": "fig-kernels-tolerances"}, "image": {"alt": "Two log-log panels of error against the length K; all measured errors lie below the admitted ones."}}
def in_sequence(z):
    """Equation (2) in float32, one term after another, as numpy accumulates."""
    distance = (z.amax(-1, keepdim=True) - z).cpu()
    e = (-distance).exp()
    total, weighted = (x.numpy().cumsum(-1)[:, -1] for x in (e, e * distance))
    return torch.from_numpy(np.log(total) + weighted / total)


def relative(computed, right, size):
    return ((computed.to(right) - right).abs() / size).max().item()


errors = []
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    name = str(dtype).removeprefix("torch.")
    for length in lengths:
        logits = torch.randn(8, length, generator=generator).to(device, dtype)
        wide = logits.double().requires_grad_()
        right = reference.softmax_entropy(wide)
        weight = torch.full((8,), float(length), device=device)  # keeps float16 normal
        (right_grad,) = torch.autograd.grad(right, wide, weight.double())
        value = kernels.softmax_entropy(logits.requires_grad_(), backend="triton")
        (grad,) = torch.autograd.grad(value, logits, weight)
        logits, right = logits.detach(), right.detach()
        size = reference.gradient_scale(logits, weight, apart=True)
        error = relative(grad, right_grad, size)
        errors.append(("gradient, from the kernel", name, name, length, error))
        if dtype == torch.float32:
            for what, h in (
                ("kernel", value.detach()),
                ("in sequence", in_sequence(logits)),
            ):
                size = reference.error_scale(logits, apart=what == "kernel")
                error = relative(h, right, size)
                errors.append(("entropy, float32", what, name, length, error))
errors = pd.DataFrame(errors, columns=["quantity", "what", "dtype", "length", "error"])
errors = errors.sort_values("quantity", kind="stable")
figure = draw.tolerances(errors)

# %% [markdown]
# The kernel lies far below the bound and does not rise with it: within a tile it adds as a tree, in pairs and pairs
# of pairs, so that a term goes through few roundings. The bound does not rely on this, because the order of a sum is
# an implementation's own business.

# %% tags=["nbval-check-output"]
admitted = [
    tolerance(getattr(torch, dtype), length)
    for dtype, length in zip(errors.dtype, errors.length, strict=True)
]
print("every error within equation (6):", bool((errors.error <= admitted).all()))

# %% [markdown]
# ## How the tests catch a broken kernel
#
# A test compares a kernel with float64 under (6). Whether it *can* fail depends on three habits, each of which exists
# because of a bug that would pass otherwise.
#
# - **Poison the output.** Fresh memory often holds the right answer of the call before. A test fills every buffer
#   with NaN first; a place that no program writes stays NaN, and NaN is within no bound.
# - **Poison the surroundings.** Here each row of logits is followed in memory by one NaN. A mask that lets one place
#   too many through reads it.
# - **Use odd sizes.** In a row of 64 logits under tiles of 32 no tile reaches over the end, and the mask is never
#   needed. A row of 61 needs it.
#
# `EXTRA` moves the mask by one place; `missing` leaves out the last program of the grid. We break the kernel in each
# way and ask which test notices.

# %% tags=["nbval-check-output"]
nan = float("nan")


def caught(width, extra=0, missing=0, poison=True):
    """Whether comparison with float64 notices what was done to the kernel."""
    rows = 9
    around = torch.full((rows, width + 1), nan)
    around[:, :width] = 3 * torch.randn(rows, width, generator=generator)
    logits = around.to(device)[:, :width]
    right = reference.softmax_entropy(logits.double())
    entropy = torch.full((rows,), nan, device=device) if poison else right.float()
    entropy_of_rows[(rows - missing,)](
        logits, entropy, width, logits.stride(0), EXTRA=extra, TILE=32
    )
    scale = reference.error_scale(logits, apart=False)
    within = (entropy - right).abs() <= admitted_error(torch.float32, width, scale)
    return not within.all().item()  # NaN is within nothing


for name, change in {
    "as it should be": {},
    "mask one place short": {"extra": -1},
    "mask one place long": {"extra": 1},
    "grid one program short": {"missing": 1},
    "the same, memory not poisoned": {"missing": 1, "poison": False},
}.items():
    answers = [
        f"K = {K} {'caught' if caught(K, **change) else 'passes'}" for K in (64, 61)
    ]
    print(f"{name + ':':31}", ", ".join(answers))

# %% [markdown]
# Two bugs pass where a habit is missing: the long mask at the round size, and the missing program in memory that
# still holds the answer. The tests in `tests/kernels` therefore poison every buffer that the library allocates, and
# run each operation on round and prime sizes, single rows, empty and strided inputs, extreme values and random
# shapes, in four dtypes. What the interpreter cannot show is what only a compiler or a GPU can do wrong: those tests
# carry the marker `gpu` and are reported as skipped where there is none.

# %% [markdown]
# ## All operations
#
# | op, with its README in `lib/palimpsest/kernels/<op>` | computes | least traffic, forward | never held |
# |---|---|---|---|
# | `softmax_entropy` | $-\sum_k p_k \ln p_k$ of $N$ rows | read $NK$, write $N$ | $N \times K$ probabilities |
# | `jensen_shannon` | Jensen–Shannon divergence $J(p_n, q_c)$ of all pairs of $N$ and $C$ rows of length $D$ | read $(N + C) D$, write $NC$ | $N \times C \times D$ mixtures |
# | `topk_confidence` | the $k$ largest of $V$ probabilities, and $1 - H / \ln k$ of these | read $NV$, write $(2k + 1) N$ | $N \times V$ probabilities |
# | `token_logprob` | $\ln \operatorname{softmax}(h_t E^\top)$ at one token, $T$ states $h_t$ of width $D$, embedding $E$ of $V$ tokens | read $(T + V) D$, write $T$ | $T \times V$ logits |
# | `lsq_quantize` | $s \operatorname{round}(\operatorname{clip}(x / s))$ of $n$ numbers with step $s$ | read $n$, write $n$ | quotients, clipping masks |
# | `project_orthogonal` | $g_r + \lambda (g_f - c\, g_r)$, two gradients of $n$ numbers, $c = \langle g_f, g_r \rangle / \lVert g_r \rVert^2$ | read $4n$, write $n$ | flattened copies |
# | `masked_adamw_` | a step of AdamW where the mask is 1: gradient, scale, weight and two moments of $n$ numbers | read $5n$ and $n$ bits, write $3n$ | corrected moments, unmasked results |
# | `tree_attention` | attention of $T$ tree nodes to a prefix of $L$ keys and to their ancestors, one head of width $D$ | read $2 (L + T) D + TD$, write $TD$ | $T \times (L + T)$ scores, dense mask |
# | `cache_commit` | of $T$ tree rows in a cache, the $n$ accepted ones moved to the end of the prefix, rows of $D$ numbers | read $nD$, write $nD$ | a copy of the cache |
#
# Traffic is counted in numbers, not bytes. `project_orthogonal` reads both gradients twice, because $c$ needs all of
# them before the first output. The gradients of all differentiable ones are checked as well: here are all operations,
# on the path that the library takes by itself and on Triton, against their definitions in float64.


# %%
def adamw(param, grad, exp_avg, exp_avg_sq, mask, scale, backend):
    lists = [[x.clone()] for x in (param, grad, exp_avg, exp_avg_sq, mask, scale)]
    numbers = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
    kernels.masked_adamw_(*lists, step=3, backend=backend, **numbers)
    return [lists[i][0] for i in (0, 2, 3)]


def project(f1, f2, r1, r2, backend):
    return kernels.project_orthogonal([f1, f2], [r1, r2], backend=backend)


def commit(key, value, backend):
    key, value = key.clone(), value.clone()
    kernels.cache_commit([key], [value], [1, 3, 4], 8, backend=backend)
    return key, value


def draw_normal(*shape):
    return torch.randn(shape, generator=generator).to(device)


with_gradient = {  # op: (function, arguments)
    "softmax_entropy": (kernels.softmax_entropy, [draw_normal(9, 61)]),
    "jensen_shannon": (
        kernels.jensen_shannon,
        [draw_normal(9, 61), draw_normal(5, 61)],
    ),
    "token_logprob": (
        kernels.token_logprob,
        [draw_normal(9, 16), draw_normal(61, 16), torch.arange(9, device=device)],
    ),
    "lsq_quantize": (
        functools.partial(kernels.lsq_quantize, qn=-8, qp=7),
        [draw_normal(9, 61), torch.tensor(0.25, device=device)],
    ),
}
mask = draw_normal(9, 61) > 0
without_gradient = {
    "topk_confidence": (
        functools.partial(kernels.topk_confidence, k=10),
        [draw_normal(9, 61)],
    ),
    "project_orthogonal": (
        project,
        [draw_normal(9, 61), draw_normal(7), draw_normal(9, 61), draw_normal(7)],
    ),
    "masked_adamw_": (
        adamw,
        [
            *(draw_normal(9, 61) for _ in range(3)),
            draw_normal(9, 61).square(),
            mask,
            draw_normal(9, 61).abs(),
        ],
    ),
    "tree_attention": (
        functools.partial(kernels.tree_attention, prefix_len=8, scale=0.25),
        [
            draw_normal(1, 4, 5, 16),
            draw_normal(1, 2, 13, 16),
            draw_normal(1, 2, 13, 16),
            torch.ones(5, 5, device=device).tril().bool(),
        ],
    ),
    "cache_commit": (commit, [draw_normal(1, 2, 13, 16), draw_normal(1, 2, 13, 16)]),
}

# %% [markdown]
# `results` calls an operation in a given dtype and returns everything that came out, gradients included. Entries are
# compared with the largest one of their tensor. The tests hold each entry to a bound of its own, which is sharper;
# but a forgotten term or a shifted mask is about a thousand times larger than this coarse ruler too. A step of
# $\tfrac14$ divides exactly, so that float32 and float64 round to the same code in `lsq_quantize`.


# %% tags=["nbval-check-output"]
def results(function, arguments, backend, dtype, differentiate):
    given = [
        x.detach().to(dtype).requires_grad_(differentiate)
        if x.is_floating_point()
        else x
        for x in arguments
    ]
    found = function(*given, backend=backend)
    found = [found] if isinstance(found, torch.Tensor) else list(found)
    if differentiate:
        rate = torch.linspace(-1, 1, found[0].numel()).to(found[0]).view_as(found[0])
        wanted = [x for x in given if x.requires_grad]
        found += torch.autograd.grad(found[0], wanted, rate)
    return [x.detach().double() for x in found]


ruler = 8 * tolerance(torch.float32, 61)
for group in (with_gradient, without_gradient):
    for op, case in group.items():
        differentiate, agreed = group is with_gradient, []
        right = results(*case, "reference", torch.float64, differentiate)
        for backend in (None, "triton"):
            computed = results(*case, backend, torch.float32, differentiate)
            pairs = zip(computed, right, strict=True)
            close = [
                ((x - y).abs() <= ruler * y.abs().max()).all().item() for x, y in pairs
            ]
            agreed.append(all(close))
        print(f"{op + ':':20} default {agreed[0]}, triton {agreed[1]}")

# %% [markdown]
# ## How bytes give the limit
#
# A kernel that must move $B$ bytes over a memory of bandwidth $b$ takes at least $B / b$ seconds. One that must do
# $F$ operations on a processor of $P$ operations per second takes at least $F / P$. Both can go on at the same time, so
#
# $$\text{time} \ge \max\Bigl(\frac{B}{b}, \frac{F}{P}\Bigr), \qquad\text{or}\qquad
# \frac{F}{\text{time}} \le \min\Bigl(b\,\frac{F}{B},\, P\Bigr). \tag{7}$$
#
# $F / B$, operations a byte, is the *arithmetic intensity*. Drawn over it, the right side of (7) is a slanted roof
# that turns flat: the *roofline* of [Williams, Waterman and Patterson](https://doi.org/10.1145/1498765.1498785). Left
# of the bend bytes decide, right of it arithmetic. For $b$ we take what a large copy reaches on the same machine,
# read and written bytes counted: no kernel can be expected to do better from memory, though one whose data still lie
# in a cache can.
#
# The points below were *recorded* by `palimpsest bench`, because a time is a property of a machine. The benchmark
# checks an operation against float64 first and refuses to time one that is wrong; then it runs all peers in turn, so
# that a disturbance hits all of them, and keeps quantiles.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Recorded forward passes in float32 on one CPU thread, a point for each shape, under the roof of equation (7); both axes are logarithmic. The slanted part is the bandwidth of a large copy, the flat part the fastest rate that was recorded for any peer. Look at the distance to the roof: what a hollow point lies below a filled one of its colour is what a kernel gains. Points above the slanted roof had their data in a cache. cache_commit only moves numbers and has no place here.", "name": "fig-kernels-roofline"}, "image": {"alt": "Log-log scatter of operations per second against operations per byte for each op, eager hollow and ours filled, below a slanted and then flat roof line."}}
bench = {machine: draw.recorded(machine) for machine in draw.DEVICES}
figure = draw.roofline(bench["cpu"])

# %% [markdown]
# An exponential or a logarithm counts as one operation here, and costs a CPU a dozen or more instructions; that is
# why operations made of them stay below the roof on a CPU. On a GPU, those with about one operation a byte lie far to
# the left of the bend. There the share of the copy's bandwidth is the measure of a kernel, and 90 % is the aim.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Share of the copy's bandwidth that each operation reaches, least traffic over median time; a mark for each recorded shape, on a logarithmic axis. The line is the copy itself. Look at the right panel first: it says 'not run' as long as no benchmark was recorded on a GPU. On the left, operations with little arithmetic for each byte lie near the line, the others do not, and should not.", "name": "fig-kernels-share"}, "image": {"alt": "Two dot plots, CPU and GPU, of the share of copy bandwidth by op; panels or rows without a recorded benchmark say not run."}}
figure = draw.share_of_copy(bench)

# %% tags=["hide-input"]
print(sentences.share_of_copy(bench))

# %% [markdown]
# ## Beside the peers
#
# Each operation was timed beside the formula in plain torch (*eager*, 1 by definition), the same formula under
# `torch.compile`, and what a library offers for it: scipy and faiss for $J$, `torch.distributions` for $H$, torch's
# fused AdamW without a mask, torch's own learnable fake-quantisation, a dense mask for attention.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "How many times faster than eager each peer is, medians of interleaved runs on one CPU thread, by shape and direction; the axis is logarithmic and the line at 1 is eager. Look for blue circles left of the line, where our path is slower than the formula, and for orange squares right of the blue ones, where a compiler beats our path.", "name": "fig-kernels-peers"}, "image": {"alt": "A small dot plot for each op: speed relative to eager of our path, torch.compile and named peers, for every recorded shape and direction."}}
figure = draw.peers(bench["cpu"])

# %% [markdown]
# **Is any operation slower than naive?** The table answers from the recorded files. *Beyond the noise* means that
# four of five of our runs took longer than four of five runs of the formula.

# %% tags=["hide-input"]
figures.table(draw.slower_than_naive(bench["cpu"]))

# %% [markdown]
# On a CPU the library takes a torch path in tiles, not the interpreted kernel. `torch.compile` is often faster there,
# after some seconds of compilation for each new shape, which a single selection or a short decoding does not earn
# back; and it needs a C++ compiler on the reader's machine. On a GPU:

# %% tags=["hide-input"] mystnb={"figure": {"caption": "The same on a GPU, from the files that `palimpsest bench --device cuda` writes. Look for 'not run': no such file means that nothing is claimed.", "name": "fig-kernels-peers-gpu"}, "image": {"alt": "A panel for each op with speed relative to eager on a GPU, or the words not run."}}
figure = draw.peers(bench["cuda"])

# %% [markdown]
# ## What this chapter does not show
#
# The tests compile every kernel for a GPU of compute capability 9.0, without one; how fast it is there is unknown
# wherever a panel says *not run*. The interpreter tells nothing of speed. And a kernel at its limit can still be the
# wrong one: to move fewer bytes than the least traffic of an operation, fuse it with its neighbour, as
# `token_logprob` does with the product before it.

# %% [markdown]
# ## Exercises
#
# ```{exercise}
# :label: kernels-ex-rise
# Leave `rise * total` out of `add_tile`. Which rows still come out right? What does that ask of a test?
# ```
#
# ```{solution} kernels-ex-rise
# :class: dropdown
# Those whose maximum lies in the first tile: all later rises are 0, and the first one multiplies a total of 0. A test
# needs rows whose maximum comes late. The tests of `softmax_entropy` sort rows both ways.
# ```

# %% tags=["solution", "hide-cell"]
for descending in (True, False):
    ordered = z.double().sort(-1, descending=descending).values
    top, total, weighted = sums(ordered[:, :7])
    for tile in ordered[:, 7:].split(7, dim=1):
        higher, tile_total, tile_weighted = join((top, total, weighted), sums(tile))
        weighted = tile_weighted - (higher - top) * total * (top - higher).exp()
        top, total = higher, tile_total
    error = (entropy_of(top, total, weighted) - exact).abs().max()
    print(f"{'falling' if descending else 'rising'} rows: error {error:.0e} nats")

# %% [markdown]
# ```{exercise}
# :label: kernels-ex-order
# A GPU with 132 processors gets 4 rows of 150,000 logits. How would you keep all processors busy? Why is it allowed?
# ```
#
# ```{solution} kernels-ex-order
# :class: dropdown
# Give each row to 33 programs, let each write the $\hat z$, $Z$ and $W$ of its part, and join the parts in a second,
# tiny kernel. Joining with (3) is associative and commutative up to rounding, so any division is allowed; a fixed
# order of the joins makes two runs give the same bits.
# ```

# %% tags=["solution", "hide-cell"]
shuffled = [tiles[i] for i in torch.randperm(len(tiles), generator=generator)]
print(
    "joined in another order:",
    largest_error(entropy_of(*functools.reduce(join, shuffled))),
)

# %% [markdown]
# ```{exercise}
# :label: kernels-ex-bytes
# How many bytes does the backward pass (5) move at least, and how many does autograd of `entropy_eager` move? Use
# `Traffic`.
# ```
#
# ```{solution} kernels-ex-bytes
# :class: dropdown
# At least two matrices: logits read, gradient written. Autograd also reads and writes what it kept of the forward
# pass.
# ```

# %% tags=["solution", "hide-cell"]
leaf = many.clone().requires_grad_()
total_entropy = entropy_eager(leaf).sum()
with Traffic() as traffic:
    total_entropy.backward()
print(f"autograd moves {traffic.moved / many.nbytes:.1f} matrices")

# %% [markdown]
# ## Provenance

# %% tags=["hide-input"]
measured = {}
for machine, table in bench.items():
    recorded = table[["device", "date"]].drop_duplicates().itertuples(index=False)
    measured[f"benchmarks recorded, {machine}"] = (
        "; ".join(f"{row.date} on {row.device}" for row in recorded) or "not run"
    )
page.provenance(profile, None, measured)
