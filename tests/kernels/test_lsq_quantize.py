"""kernels.lsq_quantize against its float64 definition, on every backend.

No gradcheck: the straight-through gradient is by design not the derivative of the staircase. Instead the gradients
are held to autograd of the definition, to the paper's formula element by element, and to numbers worked by hand.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest import kernels
from palimpsest.kernels.lsq_quantize import inplace, reference
from palimpsest.kernels.tolerances import accumulation_dtype, admitted_error

pytestmark = pytest.mark.pairwise

RANGES = [(-8, 7), (0, 15), (-128, 127), (-2, 1)]


def make_case(shape, axis, dtype, generator, qn=-8, qp=7):
    """Normal x, and steps with which a good part of it is clipped; `axis` None is one step."""
    x = torch.randn(shape, generator=generator).to(dtype)
    step = (1.5 + torch.rand(() if axis is None else shape[axis], generator=generator)) / (qp - qn)
    return x, step, qn, qp, axis or 0


def as_channels_last(x):
    n, groups, c, height, width = x.shape
    merged = x.reshape(n, groups * c, height, width).contiguous(memory_format=torch.channels_last)
    return merged.view(x.shape)


def run(x, step, *arguments, weight, backend):
    x, step = x.detach().requires_grad_(), step.detach().requires_grad_()
    value = kernels.lsq_quantize(x, step, *arguments, backend=backend)
    return value, *torch.autograd.grad(value, (x, step), weight)


def assert_agrees(x, step, qn, qp, axis, backend, generator):
    """The bits of codes times step; gradients and, where it takes the same codes, value of the definition."""
    arguments = (qn, qp, axis)
    decided = reference.decided(x, step, *arguments)
    assert decided.double().mean() > 0.99
    weight = torch.empty_like(x).copy_(torch.randn(x.shape, generator=generator)) * decided
    value, grad_x, grad_step = run(x, step, *arguments, weight=weight, backend=backend)
    exact, exact_grad_x, exact_grad_step = run(
        x.double(), step.double(), *arguments, weight=weight.double(), backend="reference"
    )

    dtype = accumulation_dtype(x.dtype)
    codes = reference.codes(x, step, *arguments)
    assert torch.equal(value, (codes * reference.broadcast(step, x, axis).to(dtype)).to(x.dtype))
    assert value.dtype == grad_x.dtype == x.dtype
    if torch.empty_like(x).stride() == x.stride():
        assert value.stride() == grad_x.stride() == x.stride()
    admitted = admitted_error(x.dtype, 1, exact.abs())
    assert ((value.double() - exact).abs() <= admitted)[decided].all()

    y = reference.quotient(x, step, axis)
    assert torch.equal(grad_x, torch.where((y >= qn) & (y <= qp), weight, 0))
    # float64 multiplies by s and divides by it again.
    assert ((grad_x.double() - exact_grad_x).abs() <= admitted_error(torch.float64, 2, weight.double().abs())).all()
    assert grad_step.dtype == step.dtype
    assert grad_step.shape == step.shape
    scale = reference.gradient_scale(x, step, weight, *arguments)
    admitted = admitted_error(step.dtype, x.numel() // step.numel(), scale)
    assert ((grad_step.double() - exact_grad_step).abs() <= admitted).all()


@pytest.fixture(params=["one piece", "many pieces"])
def pieces(request, monkeypatch):
    """Small inputs through whole tiles, and cut up as large ones are, with several tiles for each program."""
    if request.param == "many pieces":
        from palimpsest.kernels.lsq_quantize import triton

        monkeypatch.setattr(inplace, "PIECE", 64)
        monkeypatch.setattr(inplace, "NARROW", 10)
        for name, value in (("INTERPRETED_TILE", 128), ("WIDE", 12), ("PROGRAMS", 3)):
            monkeypatch.setattr(triton, name, value)


@pytest.mark.parametrize(
    ("shape", "axis"), [((509,), None), ((), None), ((1, 1), 0), ((7,), 0), ((16, 32), 0), ((67, 13), -1)], ids=str
)
def test_agrees_with_float64(shape, axis, pieces, dtype, backend, generator):
    assert_agrees(*make_case(shape, axis, dtype, generator), backend, generator)


@pytest.mark.parametrize(("qn", "qp"), RANGES)
@pytest.mark.parametrize("axis", [None, 1])
def test_ranges(qn, qp, axis, backend, generator):
    assert_agrees(*make_case((5, 3, 17), axis, torch.float32, generator, qn, qp), backend, generator)


@pytest.mark.parametrize("shape", [(2, 3, 5, 4, 3), (3, 2, 1, 5, 5)], ids=str)
@pytest.mark.parametrize("axis", [None, 0, 1, 4])
def test_groups_of_channels_last(shape, axis, pieces, backend, generator):
    x, *rest = make_case(shape, axis, torch.float32, generator)
    assert_agrees(as_channels_last(x), *rest, backend, generator)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize(
    "view",
    [lambda x: x[:, ::2], lambda x: x[3:].t(), lambda x: x[:, :1].expand(-1, 20), lambda x: x[1:, 5:30]],
    ids=["strided", "transposed", "expanded", "slice"],
)
def test_non_contiguous(view, axis, pieces, backend, generator):
    x = view(torch.randn(21, 40, generator=generator))
    step = (1.5 + torch.rand(() if axis is None else x.shape[axis], generator=generator)) / 15
    assert_agrees(x, step, -8, 7, axis or 0, backend, generator)


def test_gradient_of_other_strides(pieces, backend, generator):
    """A gradient of stride 0, from a sum, and one that is transposed."""
    x, step, *arguments = make_case((13, 13), 0, torch.float32, generator)
    for weight in (torch.ones(()).expand(13, 13), torch.randn(13, 13, generator=generator).t()):
        ours = run(x, step, *arguments, weight=weight, backend=backend)
        for a, b in zip(ours, run(x, step, *arguments, weight=weight.contiguous(), backend=backend), strict=True):
            assert torch.equal(a, b)


def test_strided_steps_and_steps_in_the_dtype_of_x(dtype, backend, generator):
    x, _, *arguments = make_case((6, 50), 0, dtype, generator)
    assert_agrees(
        x, (torch.rand(12, generator=generator) / 4 + 0.0625).to(dtype)[::2], *arguments, backend, generator
    )


@pytest.mark.parametrize("size", [2.0**-120, 2.0**-20, 2.0**20, 2.0**100])
def test_extreme_steps(size, backend, generator):
    x, step, *arguments = make_case((4, 30), 0, torch.float32, generator)
    assert_agrees(x * size, step * size, *arguments, backend, generator)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_extreme_values(dtype, backend):
    """Far outside, infinite, and with a quotient that overflows."""
    x = torch.tensor([1e4, -1e4, math.inf, -math.inf, 6e-8, -0.0, 60000.0], dtype=dtype)
    step = torch.tensor(1e-37)
    value, grad_x, grad_step = run(x, step, -8, 7, weight=torch.ones_like(x), backend=backend)
    ends = torch.tensor([7, -8, 7, -8, 7, 0, 7])
    assert torch.equal(value, (ends * step.to(accumulation_dtype(dtype))).to(dtype))
    assert torch.equal(grad_x, torch.tensor([0, 0, 0, 0, 0, 1, 0], dtype=dtype))
    assert grad_step.item() == pytest.approx(12 / math.sqrt(49), rel=1e-6)


HAND = torch.tensor(
    [  # x / s, code, gradient of x, term of the gradient of s, with -8 and 7
        *((-9, -8, 0, -8), (-8.25, -8, 0, -8), (-8, -8, 1, 0), (-7.5, -8, 1, -0.5), (-6.5, -6, 1, 0.5)),
        *((-2.25, -2, 1, 0.25), (-0.5, 0, 1, 0.5), (0, 0, 1, 0), (0.5, 0, 1, -0.5), (1.5, 2, 1, 0.5)),
        *((2.5, 2, 1, -0.5), (2.75, 3, 1, 0.25), (6.75, 7, 1, 0.25), (7, 7, 1, 0), (7.25, 7, 0, 7), (7.5, 7, 0, 7)),
    ]
)


def test_hand_computed(dtype, backend):
    """Halves go to even, both bounds are inside, and the gradient of s is scaled by 1 / sqrt(n qp)."""
    y, code, inside, error = HAND.t()
    x, step = (y[:, None] / 4).expand(-1, 4).to(dtype), torch.full((len(y),), 0.25)
    value, grad_x, grad_step = run(x, step, -8, 7, weight=torch.full_like(x, 3), backend=backend)
    assert value.tolist() == (code[:, None] / 4).expand(-1, 4).tolist()
    assert grad_x.tolist() == (3 * inside[:, None]).expand(-1, 4).tolist()
    assert grad_step.tolist() == pytest.approx((4 * 3 * error / math.sqrt(4 * 7)).tolist(), rel=1e-6)


def test_just_beyond_the_bounds(dtype, backend):
    """The next number after qp, and before qn; where qn is 0, the largest that is negative and not subnormal."""
    for qn, qp in ((0, 4), (-4, 3)):
        ends = torch.tensor([qn, qp], dtype=dtype)
        beyond = ends.nextafter(torch.tensor([-math.inf, math.inf], dtype=dtype))
        beyond[ends == 0] = -torch.finfo(dtype).tiny
        for x, gradient in ((ends, [1, 1]), (beyond, [0, 0])):
            value, grad_x, _ = run(x, torch.ones(()), qn, qp, weight=torch.ones_like(x), backend=backend)
            assert value.tolist() == [qn, qp]
            assert grad_x.tolist() == gradient


def test_largest_codes(backend):
    """Halves still go to even next to +-2^22."""
    top = 2**22
    x = torch.tensor([top - 0.5, top - 1.5, top - 0.75, 0.5 - top, 1.5 - top, top + 1.0])
    assert torch.equal(
        kernels.lsq_quantize(x, torch.ones(()), -top, top, backend=backend),
        torch.tensor([top, top - 2, top - 1, -top, 2 - top, top], dtype=torch.float32),
    )


def test_the_quotient_is_a_division(pieces, backend):
    """At halves the product with the inverse, rounded twice, takes other codes."""
    step = torch.arange(1, 60) / 97
    x = step[:, None] * (torch.arange(-8, 8) + 0.5)
    codes = reference.codes(x, step, -8, 7)
    assert not torch.equal((x * (1 / step)[:, None]).clamp(-8, 7).round(), codes)
    for layout in (x, x.t().contiguous().t()):
        assert torch.equal(kernels.lsq_quantize(layout, step, -8, 7, backend=backend), codes * step[:, None])


def test_the_formula_element_by_element(backend, generator):
    """LSQ, equations 1 to 3, with floats of Python."""
    x, step, qn, qp, axis = make_case((3, 25), 0, torch.float64, generator)
    step = step.double()
    weight = torch.randn(3, 25, generator=generator, dtype=torch.float64)
    value, grad_x, grad_step = run(x, step, qn, qp, axis, weight=weight, backend=backend)
    for channel, s in enumerate(step.tolist()):
        total = 0.0
        for j, (v, g) in enumerate(zip(x[channel].tolist(), weight[channel].tolist(), strict=True)):
            y, code = v / s, round(min(max(v / s, qn), qp))
            assert value[channel, j].item() == code * s
            assert grad_x[channel, j].item() == (g if qn <= y <= qp else 0)
            total += g * (qn if y < qn else qp if y > qp else round(y) - y)
        assert grad_step[channel].item() == pytest.approx(total / math.sqrt(25 * qp), rel=1e-12)


def test_networks_in_lockstep_equal_networks_apart(pieces, backend, generator):
    """K networks as groups of channels: each has the values and the gradient scale of its own call."""
    x, step, qn, qp, axis = make_case((4, 3, 2, 5, 5), 1, torch.float32, generator)
    x, weight = as_channels_last(x), torch.randn(4, 3, 2, 5, 5, generator=generator)
    together = run(x, step, qn, qp, axis, weight=weight, backend=backend)
    for k in range(3):
        value, grad_x, grad_step = run(x[:, k], step[k], qn, qp, weight=weight[:, k], backend=backend)
        assert torch.equal(together[0][:, k], value)
        assert torch.equal(together[1][:, k], grad_x)
        scale = reference.gradient_scale(x[:, k], step[k], weight[:, k], qn, qp)
        assert (together[2][k] - grad_step).abs() <= 2 * admitted_error(torch.float32, 200, scale)


def test_agrees_with_learnable_fake_quantize(backend, generator):
    """torch's own, on a step whose inverse is exact; its range is that of the rounded code, so the bands go."""
    x, step = torch.randn(2000, generator=generator), torch.tensor(0.125)
    y = x / step
    weight = torch.randn(2000, generator=generator) * ~((y > 7) & (y < 7.5) | (y < -8) & (y > -8.5))
    ours = run(x, step, -8, 7, weight=weight, backend=backend)
    x, theirs = x.requires_grad_(), step.view(1).requires_grad_()
    value = torch._fake_quantize_learnable_per_tensor_affine(
        x, theirs, torch.zeros(1), -8, 7, 1 / math.sqrt(2000 * 7)
    )
    grad_x, grad_step = torch.autograd.grad(value, (x, theirs), weight)
    assert torch.equal(ours[0], value)
    assert torch.equal(ours[1], grad_x)
    scale = reference.gradient_scale(x.detach(), step, weight, -8, 7)
    assert (ours[2] - grad_step).abs() <= 2 * admitted_error(torch.float32, 2000, scale)


@pytest.mark.parametrize(("shape", "axis"), [((101,), None), ((7, 15, 3), 1), ((3, 5, 67), 1)], ids=str)
def test_stores_stay_in_place(shape, axis, stores_in_place, generator, monkeypatch):
    """One step, and channels that are columns and rows."""
    from palimpsest.kernels.lsq_quantize import triton

    monkeypatch.setattr(triton, "_blocks", lambda *_: (4, 32, 2))
    monkeypatch.setattr(triton, "WIDE", 64)
    x, step, *rest = make_case(shape, axis, torch.float32, generator)
    run(x, step, *rest, weight=torch.ones_like(x), backend="triton")


@pytest.mark.parametrize(("shape", "axis"), [((0, 3), None), ((0, 3), 1), ((3, 0), 0), ((0, 3), 0)], ids=str)
def test_empty(shape, axis, dtype, backend, generator):
    x, step, *arguments = make_case(shape, axis, dtype, generator)
    value, grad_x, grad_step = run(x, step, *arguments, weight=torch.ones(shape, dtype=dtype), backend=backend)
    assert value.shape == grad_x.shape == shape
    assert value.dtype == dtype
    assert torch.equal(grad_step, torch.zeros_like(step))


def test_nan_stays_where_it_is(dtype, backend, generator):
    x, step, *arguments = make_case((3, 40), 0, dtype, generator)
    x[1, 7] = math.nan
    value, grad_x, grad_step = run(x, step, *arguments, weight=torch.ones_like(x), backend=backend)
    assert value.isnan().nonzero().tolist() == [[1, 7]]
    assert grad_step.isnan().tolist() == [False, True, False]
    assert not grad_x[[0, 2]].isnan().any()


@settings(max_examples=10, deadline=None, derandomize=True, database=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    picks=st.tuples(st.integers(0, 3), st.integers(0, 23), st.sampled_from([16, 1 << 15])),
    bounds=st.sampled_from([*RANGES, (0, 1), (-1, 1)]),
    seed=st.integers(0, 2**31),
)
@pytest.mark.parametrize("chosen", [None, "triton"])
def test_any_shape_and_order_of_memory(chosen, shape, picks, bounds, seed):
    generator = torch.Generator().manual_seed(seed)
    axis, order, piece = picks
    x, step, *arguments = make_case(shape, axis % len(shape), torch.float32, generator, *bounds)
    dims = torch.randperm(len(shape), generator=torch.Generator().manual_seed(order))
    x = x.permute(*dims).contiguous().permute(*dims.argsort())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inplace, "PIECE", piece)
        assert_agrees(x, step, *arguments, chosen, generator)


@pytest.mark.parametrize("axis", [None, 1])
def test_same_bits_twice(axis, pieces, backend, generator):
    x, step, *arguments = make_case((5, 4, 23), axis, torch.float32, generator)
    weight = torch.randn(5, 4, 23, generator=generator)
    first, second = (run(x, step, *arguments, weight=weight, backend=backend) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(kernels.lsq_quantize(x, step, *arguments, backend=backend), first[0])


def test_one_gradient_alone(backend, generator):
    """Frozen steps, or data that need no gradient."""
    x, step, *arguments = make_case((5, 30), 0, torch.float32, generator)
    _, grad_x, grad_step = run(x, step, *arguments, weight=torch.ones(5, 30), backend=backend)
    for wanted, grad in ((x, grad_x), (step, grad_step)):
        wanted.requires_grad_()
        kernels.lsq_quantize(x, step, *arguments, backend=backend).sum().backward()
        assert torch.equal(wanted.grad, grad)
        wanted.requires_grad_(False)


def test_result_may_be_changed_in_place(pieces, backend, generator):
    x, step, *arguments = make_case((5, 300), 0, torch.float32, generator)
    value = kernels.lsq_quantize(x.requires_grad_(), step, *arguments, backend=backend)
    value.mul_(2).sum().backward()
    assert x.grad.unique().tolist() == [0, 2]


def test_differentiable_once(backend, generator):
    x, step, *arguments = make_case((5, 3), 0, torch.float32, generator)
    value = kernels.lsq_quantize(x.requires_grad_(), step.requires_grad_(), *arguments, backend=backend)
    weight = torch.ones(5, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(value, step, weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("axis", [None, 1])
def test_nothing_is_kept_or_widened(axis, backend, generator, monkeypatch, largest_tensor):
    """Above one piece nothing is larger than the half-precision x, channels-last included; x and step are saved."""
    monkeypatch.setattr(inplace, "PIECE", 2048 // torch.get_num_threads())
    x, step, *arguments = make_case((4, 4, 8, 8, 8), axis, torch.bfloat16, generator)
    x = as_channels_last(x).requires_grad_()
    with largest_tensor(x) as largest:
        value = kernels.lsq_quantize(x, step.requires_grad_(), *arguments, backend=backend)
        assert [tensor.shape for tensor in value.grad_fn.saved_tensors] == [x.shape, step.shape]
        value.backward(torch.ones_like(value))
    assert largest.nbytes == x.numel() * 2


X, STEP = torch.zeros(2, 3), torch.ones(2)
BAD_INPUTS = {
    "not a tensor": (([0.0], STEP, -8, 7), "x: got list, want a tensor"),
    "integers": ((X.long(), STEP, -8, 7), "x: got dtype torch.int64"),
    "step a number": ((X, 1.0, -8, 7), "step: got float, want a tensor"),
    "step of another dtype": ((X, STEP.double(), -8, 7), "step: got dtype torch.float64, want float32 or that of x"),
    "steps of another axis": ((X, STEP, -8, 7, 1), r"step: got shape \[2\], want \[\], \[1\] or \[3\]"),
    "step of two dimensions": ((X, STEP.view(2, 1), -8, 7), r"step: got shape \[2, 1\]"),
    "no such axis": ((X, STEP, -8, 7, 2), "axis: got 2, want one of the 2 dimensions of x"),
    "axis of a number": ((torch.ones(()), STEP, -8, 7), "axis: got 0, want one of the 0 dimensions of x"),
    "zero step": ((X, torch.tensor([1.0, 0.0]), -8, 7), "step: got 0.0 at channel 1, want finite steps above 0"),
    "one zero step": ((X, torch.tensor(0.0), -8, 7), "step: got 0.0 at channel 0"),
    "negative step": ((X, torch.tensor([-0.5]), -8, 7), "step: got -0.5 at channel 0"),
    "nan step": ((X, torch.tensor([1.0, math.nan]), -8, 7), "step: got nan at channel 1"),
    "infinite step": ((X, torch.tensor([math.inf, 1.0]), -8, 7), "step: got inf at channel 0"),
    "one of many": ((torch.ones(99), torch.arange(98, -1, -1.0), -8, 7), "step: got 0.0 at channel 98"),
    "nan among many": ((torch.ones(99), torch.ones(99).index_fill_(0, STEP[:1].long(), math.nan), 0, 7), "channel 1"),
    "positive qn": ((X, STEP, 1, 7), "qn: got 1, want an integer from -4194304 to 0"),
    "fractional qn": ((X, STEP, -7.5, 7), "qn: got -7.5, want an integer"),
    "zero qp": ((X, STEP, -8, 0), "qp: got 0, want an integer from 1 to 4194304"),
    "large qp": ((X, STEP, -8, 2**22 + 1), "qp: got 4194305"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
@pytest.mark.parametrize("chosen", [None, "reference", "triton"])
def test_bad_input_is_named(case, chosen):
    arguments, message = BAD_INPUTS[case]
    with pytest.raises(ValueError, match=message):
        kernels.lsq_quantize(*arguments, backend=chosen)


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend: got 'cuda', want None or one of 'reference', 'triton'"):
        kernels.lsq_quantize(X, STEP, -8, 7, backend="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize("shape", [(64, 4, 16, 32, 32), (7, 3, 5, 11, 13), (1, 1, 1, 1, 1031)], ids=str)
def test_compiled(shape, axis, dtype, cuda, generator):
    x, step, *rest = make_case(shape, axis, dtype, generator)
    x, step = x.to(cuda), step.to(cuda)
    for laid_out in (x, as_channels_last(x)):
        assert_agrees(laid_out, step, *rest, "triton", generator)
    kernels.lsq_quantize(x, step, *rest)
    assert kernels.last_backend() == "lsq_quantize: triton"
