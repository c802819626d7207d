"""kernels.jensen_shannon against its float64 definition, on every backend."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from palimpsest import kernels
from palimpsest.kernels.jensen_shannon import chunked, reference
from palimpsest.kernels.tolerances import admitted_error

pytestmark = pytest.mark.pairwise

LN_2 = math.log(2)


def make_logits(shape, dtype, generator, scale=3.0):
    return (torch.randn(shape, generator=generator) * scale).to(dtype)


@pytest.fixture(params=["one tile", "many tiles"])
def tiles(request, monkeypatch):
    """Small inputs through both torch paths."""
    if request.param == "many tiles":
        monkeypatch.setattr(chunked, "TILE", 256)


def assert_agrees(p_logits, q_logits, backend, generator):
    """Forward and both gradients within the error model of the float64 definition."""
    (n, d), c = p_logits.shape, len(q_logits)
    p, q = (x.detach().requires_grad_() for x in (p_logits, q_logits))
    exact_p, exact_q = (x.detach().double().clone().requires_grad_() for x in (p_logits, q_logits))
    value = kernels.jensen_shannon(p, q, backend=backend)
    exact = reference.jensen_shannon(exact_p, exact_q)
    assert value.shape == (n, c)
    assert value.dtype == (torch.float64 if p.dtype == torch.float64 else torch.float32)
    assert (value >= 0).all()
    assert (value.double() <= LN_2).all()
    error = (value.double() - exact).abs()
    assert (error <= admitted_error(value.dtype, d, reference.error_scale(p_logits, q_logits))).all()

    weight = torch.randn(value.shape, generator=generator).to(value)
    grads = torch.autograd.grad(value, (p, q), weight)
    exact_grads = torch.autograd.grad(exact, (exact_p, exact_q), weight.double())
    scales = reference.gradient_scale(p_logits, q_logits, weight)
    for grad, exact_grad, scale, terms in zip(grads, exact_grads, scales, (c, n), strict=True):
        assert grad.dtype == p.dtype
        assert ((grad.double() - exact_grad).abs() <= admitted_error(grad.dtype, d + terms, scale)).all()


@pytest.mark.parametrize("shape", [(16, 8, 32), (67, 5, 65), (1, 1, 1), (1, 7, 10), (3, 131, 2)], ids=str)
def test_agrees_with_float64(shape, dtype, backend, generator):
    n, c, d = shape
    assert_agrees(make_logits((n, d), dtype, generator), make_logits((c, d), dtype, generator), backend, generator)


@pytest.mark.parametrize("step", [0.1, 3e-4, 1e-6])
def test_small_divergences_keep_their_digits(step, dtype, backend, generator):
    centre = make_logits((1, 40), dtype, generator, 0.5)
    near = (centre + make_logits((9, 40), dtype, generator, step)).to(dtype)
    assert_agrees(near, centre, backend, generator)


@pytest.mark.parametrize("step", [0.49, 0.51], ids=["series", "closed form"])
def test_both_branches_at_their_border(step, dtype, backend, generator):
    """Rows whose log ratios straddle the switch between series and closed form."""
    base = make_logits((4, 12), dtype, generator, 1.0)
    signs = torch.where(torch.arange(12) % 2 == 0, step / 2, -step / 2)
    assert_agrees((base + signs).to(dtype), base, backend, generator)


def extreme_rows(dtype):
    """One-hot by +-1e4, uniform, spread over +-1e4, and a zero-probability column by -inf."""
    hot = torch.full((2, 11), -1e4)
    hot[0, 3] = hot[1, 7] = 1e4
    masked = torch.linspace(-1, 1, 11)
    masked[::2] = -math.inf
    return torch.stack([*hot, torch.zeros(11), torch.linspace(-1e4, 1e4, 11), masked]).to(dtype)


def test_extreme_logits(dtype, tiles, backend, generator):
    rows = extreme_rows(dtype)
    assert_agrees(rows, rows.flip(0), backend, generator)


@pytest.mark.parametrize("columns", [24, 40], ids=["D outermost", "D innermost"])
def test_probabilities_of_every_size(columns, dtype, backend, generator):
    """Ratios p/q to e^60, past what 1 - p/m can hold, and columns that are zero on one side or on both.

    Not farther: the definition clamps J, and has no gradient where J is ln 2 but for rounding.
    """
    spread = torch.linspace(0, -30, columns)
    p = torch.stack([spread.roll(3 * i) for i in range(60)])
    p[::5, ::3] = -math.inf
    q = torch.stack([spread, spread.flip(0), torch.zeros(columns), spread / 10])
    q[0, ::2] = -math.inf
    assert_agrees(p.to(dtype), q.to(dtype), backend, generator)


def test_hand_computed_values(dtype, backend):
    """Disjoint supports: ln 2. One-hot against uniform over 2: ln 2 - (3 ln 3) / 4 + (ln 2) / 2. Equal: 0."""
    p = torch.tensor([[0.0, -math.inf], [0.0, 0.0]], dtype=dtype)
    q = torch.tensor([[-math.inf, 0.0], [0.0, -math.inf], [5.0, 5.0]], dtype=dtype)
    half = 1.5 * LN_2 - 0.75 * math.log(3)
    exact = torch.tensor([[LN_2, 0.0, half], [half, half, 0.0]], dtype=torch.float64)
    value = kernels.jensen_shannon(p, q, backend=backend)
    assert ((value.double() - exact).abs() <= admitted_error(value.dtype, 2, exact.sqrt())).all()


def test_equal_rows_give_exactly_zero(dtype, tiles, backend, generator):
    rows = make_logits((6, 37), dtype, generator)
    p, q = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    value = kernels.jensen_shannon(p, q, backend=backend)
    assert (value.diagonal() == 0).all()
    value.diagonal().sum().backward()
    scale = torch.ones(())
    assert (p.grad.abs() <= admitted_error(torch.float64, 37, scale)).all()


def test_symmetric(dtype, backend, generator):
    p, q = make_logits((5, 19), dtype, generator), make_logits((7, 19), dtype, generator)
    forward = kernels.jensen_shannon(p, q, backend=backend).double()
    swapped = kernels.jensen_shannon(q, p, backend=backend).double().t()
    dtype_out = reference.accumulation_dtype(dtype)
    assert ((forward - swapped).abs() <= 2 * admitted_error(dtype_out, 19, reference.error_scale(p, q))).all()


def test_shift_of_a_row_changes_nothing(backend, generator):
    """Softmax ignores a constant; 4096 is exact to add to multiples of 1/64 in float32."""
    p = (make_logits((5, 13), torch.float32, generator) * 64).round() / 64
    q = (make_logits((3, 13), torch.float32, generator) * 64).round() / 64
    shifted = kernels.jensen_shannon(p + 4096, q - 4096, backend=backend)
    assert torch.equal(shifted, kernels.jensen_shannon(p, q, backend=backend))


def test_non_contiguous(dtype, backend, generator):
    p = make_logits((13, 34), dtype, generator)[:, ::2]
    q = make_logits((17, 9), dtype, generator).t()
    assert_agrees(p, q, backend, generator)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("chosen", [None, "reference", "triton"])
def test_empty(shape, chosen, dtype):
    n, c = shape
    p, q = (
        torch.zeros(n, 4, dtype=dtype, requires_grad=True),
        torch.zeros(c, 4, dtype=dtype, requires_grad=True),
    )
    value = kernels.jensen_shannon(p, q, backend=chosen)
    assert value.shape == (n, c)
    assert value.dtype == reference.accumulation_dtype(dtype)
    value.sum().backward()
    assert torch.equal(p.grad, torch.zeros_like(p))
    assert torch.equal(q.grad, torch.zeros_like(q))


@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(n=st.integers(1, 70), c=st.integers(1, 70), d=st.integers(1, 70), seed=st.integers(0, 2**31))
@pytest.mark.parametrize("chosen", [None, "triton"])
def test_any_shape(chosen, n, c, d, seed):
    generator = torch.Generator().manual_seed(seed)
    p, q = make_logits((n, d), torch.float32, generator), make_logits((c, d), torch.float32, generator)
    assert_agrees(p, q, chosen, generator)


@pytest.mark.parametrize("width", [9, 40])
@pytest.mark.parametrize("tile", [64, 1024])
def test_many_tiles(tile, width, dtype, generator, monkeypatch):
    """One side and both cut where they would not be, with D innermost and outermost."""
    monkeypatch.setattr(chunked, "TILE", tile)
    p, q = make_logits((53, width), dtype, generator), make_logits((21, width), dtype, generator)
    assert_agrees(p, q, None, generator)
    assert_agrees(q, p, None, generator)


@pytest.mark.parametrize("shape", [(3, 2, 5), (2, 3, 1)], ids=str)
def test_gradcheck(shape, backend, generator):
    n, c, d = shape
    p, q = (make_logits((rows, d), torch.float64, generator, 1.0).requires_grad_() for rows in (n, c))
    # One random direction suffices, and the interpreter is slow.
    assert torch.autograd.gradcheck(
        lambda p, q: kernels.jensen_shannon(p, q, backend=backend), (p, q), fast_mode=True
    )


def test_gradient_only_where_wanted(backend, generator):
    p, q = (
        make_logits((4, 6), torch.float32, generator).requires_grad_(),
        make_logits((3, 6), torch.float32, generator),
    )
    kernels.jensen_shannon(p, q, backend=backend).sum().backward()
    assert p.grad is not None
    assert q.grad is None


@pytest.mark.parametrize("shape", [(70, 5, 21), (90, 40, 21)], ids=str)
def test_same_bits_twice(shape, dtype, backend, generator, assert_same_bits):
    n, c, d = shape
    p, q = make_logits((n, d), dtype, generator), make_logits((c, d), dtype, generator)
    assert_same_bits(lambda p, q: kernels.jensen_shannon(p, q, backend=backend), p, q)


def test_value_does_not_depend_on_grad_mode(tiles, backend, generator):
    p, q = make_logits((50, 40), torch.float32, generator), make_logits((9, 40), torch.float32, generator)
    value = kernels.jensen_shannon(p, q, backend=backend)
    assert not value.requires_grad
    assert torch.equal(value, kernels.jensen_shannon(p, q.clone().requires_grad_(), backend=backend))


def test_pairs_times_columns_are_never_held(backend, generator, largest_tensor, monkeypatch):
    monkeypatch.setattr(chunked, "TILE", 1 << 12)
    p, q = make_logits((128, 128), torch.float32, generator), make_logits((16, 128), torch.float32, generator)
    p.requires_grad_(), q.requires_grad_()
    tile = chunked.TILE * torch.get_num_threads() * 4
    with largest_tensor() as largest:
        kernels.jensen_shannon(p, q, backend=backend).sum().backward()
    assert largest.nbytes <= max(tile, p.nbytes) < 128 * 16 * 128 * 4
    with largest_tensor() as largest:
        kernels.jensen_shannon(p, q, backend="reference")
    assert largest.nbytes == 128 * 16 * 128 * 4, "the recorder must see what the definition holds"


def test_a_tile_may_have_all_rows_of_one_side_alone(generator, largest_tensor, monkeypatch):
    monkeypatch.setattr(chunked, "TILE", 1 << 12)
    p, q = make_logits((16, 64), torch.float32, generator), make_logits((16, 64), torch.float32, generator)
    tile = chunked.TILE * torch.get_num_threads() * 4
    with largest_tensor() as largest:
        kernels.jensen_shannon(p, q)
    assert largest.nbytes <= max(tile, p.nbytes) < 16 * 16 * 64 * 4


def test_rows_past_the_end_are_not_read(rows_not_to_be_read, generator):
    p = rows_not_to_be_read(make_logits((16, 21), torch.float32, generator), 5)
    q = rows_not_to_be_read(make_logits((8, 21), torch.float32, generator), 3)
    p.requires_grad_(), q.requires_grad_()
    weight = rows_not_to_be_read(torch.ones(8, 3), 5)
    kernels.jensen_shannon(p, q, backend="triton").backward(weight)


def test_stores_stay_in_place(stores_in_place, generator, monkeypatch):
    """More rows and columns than a tile, and the rows of the other input in several parts."""
    from palimpsest.kernels.jensen_shannon import triton

    monkeypatch.setattr(triton, "_power_of_2", lambda n, most: 8)
    p, q = (make_logits((rows, 21), torch.float32, generator).requires_grad_() for rows in (11, 13))
    kernels.jensen_shannon(p, q, backend="triton").sum().backward()


def test_agrees_with_scipy(backend, generator):
    p, q = make_logits((6, 23), torch.float64, generator), make_logits((4, 23), torch.float64, generator)
    distance = jensenshannon(p.softmax(-1).numpy()[:, None], q.softmax(-1).numpy()[None], axis=-1)
    value = kernels.jensen_shannon(p, q, backend=backend).numpy()
    assert (
        np.abs(value - distance**2) <= admitted_error(torch.float64, 23, reference.error_scale(p, q)).numpy()
    ).all()


def test_float32_reference_is_the_definition(generator):
    """Its error does not shrink with J: the plain definition cancels."""
    p, q = make_logits((6, 23), torch.float32, generator), make_logits((4, 23), torch.float32, generator)
    exact = reference.jensen_shannon(p.double(), q.double())
    value = kernels.jensen_shannon(p, q, backend="reference")
    assert ((value.double() - exact).abs() <= admitted_error(torch.float32, 23, torch.tensor(1 + math.log(23)))).all()


def good():
    return torch.zeros(2, 3)


def with_value(value, row=1):
    logits = good()
    logits[row, 0] = value
    return logits


BAD_INPUTS = {
    "not a tensor": ([[0.0]], good(), "p_logits: got list"),
    "integers": (good(), good().long(), "q_logits: got dtype torch.int64"),
    "one dimension": (torch.zeros(3), good(), r"p_logits: got shape \[3\], want \[N, D\]"),
    "three dimensions": (good(), torch.zeros(1, 2, 3), r"q_logits: got shape \[1, 2, 3\], want \[C, D\]"),
    "unequal columns": (good(), torch.zeros(2, 4), "q_logits: got D = 4, want that of p_logits, 3"),
    "no columns": (torch.zeros(2, 0), torch.zeros(2, 0), "p_logits: got D = 0"),
    "two dtypes": (good(), good().double(), "q_logits: got dtype torch.float64"),
    "nan": (with_value(math.nan), good(), "p_logits: row 1 holds NaN"),
    "infinity": (good(), with_value(math.inf), "q_logits: row 1 holds NaN"),
    "no probability": (torch.full((1, 3), -math.inf), good(), "p_logits: row 0 .* only -inf"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
@pytest.mark.parametrize("chosen", [None, "reference", "triton"])
def test_bad_input_is_named(case, chosen):
    p, q, message = BAD_INPUTS[case]
    with pytest.raises(ValueError, match=message):
        kernels.jensen_shannon(p, q, backend=chosen)


def test_large_finite_logits_are_not_refused(backend):
    """The quick check may overflow; the rows are good all the same."""
    logits = torch.full((4, 2), torch.finfo(torch.float64).max, dtype=torch.float64)
    assert (kernels.jensen_shannon(logits, logits, backend=backend) == 0).all()


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend: got 'cuda', want None or one of 'reference', 'triton'"):
        kernels.jensen_shannon(good(), good(), backend="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(4096, 1000, 10), (1031, 67, 509), (1, 1, 1), (3, 4099, 128)], ids=str)
def test_compiled(shape, dtype, cuda, generator):
    n, c, d = shape
    p, q = make_logits((n, d), dtype, generator).to(cuda), make_logits((c, d), dtype, generator).to(cuda)
    value = kernels.jensen_shannon(p, q)
    assert kernels.last_backend() == "jensen_shannon: triton"
    exact = kernels.jensen_shannon(p.double().cpu(), q.double().cpu())
    scale = (1 + math.log(d)) * (exact.sqrt() + (1.0 if dtype == torch.float64 else 2.0**-29))
    assert ((value.double().cpu() - exact).abs() <= admitted_error(value.dtype, d, scale)).all()


@pytest.mark.gpu
def test_compiled_gradients(dtype, cuda, generator):
    generator_cuda = torch.Generator(cuda).manual_seed(1)
    p, q = make_logits((257, 37), dtype, generator).to(cuda), make_logits((31, 37), dtype, generator).to(cuda)
    assert_agrees(p, q, "triton", generator_cuda)
