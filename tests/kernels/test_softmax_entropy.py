"""kernels.softmax_entropy against its float64 definition, on every backend."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy

from palimpsest import kernels
from palimpsest.kernels.softmax_entropy import chunked, few, reference
from palimpsest.kernels.tolerances import accumulation_dtype, admitted_error, unit_roundoff

pytestmark = pytest.mark.pairwise


def make_logits(shape, dtype, generator, scale=3.0):
    return (torch.randn(shape, generator=generator) * scale).to(dtype)


def assert_agrees(logits, backend, generator):
    """Value and gradient within the error model of the float64 definition."""
    apart, width = backend == "triton", logits.shape[1]
    z, exact_z = logits.detach().requires_grad_(), logits.detach().double().requires_grad_()
    value, exact = kernels.softmax_entropy(z, backend=backend), reference.softmax_entropy(exact_z)
    assert value.shape == (len(logits),)
    assert value.dtype == accumulation_dtype(logits.dtype)
    admitted = admitted_error(value.dtype, width, reference.error_scale(logits, apart))
    assert ((value.double() - exact).abs() <= admitted).all()

    weight = torch.randn(value.shape, generator=generator).to(value)
    (grad,) = torch.autograd.grad(value, z, weight)
    (exact_grad,) = torch.autograd.grad(exact, exact_z, weight.double())
    assert grad.dtype == logits.dtype
    admitted = admitted_error(grad.dtype, width, reference.gradient_scale(logits, weight, apart))
    assert ((grad.double() - exact_grad).abs() <= admitted).all()


@pytest.fixture(params=["few", "direct", "many tiles"])
def tiles(request, monkeypatch):
    """Small inputs through all torch paths, and through Triton both with whole rows and with rows cut up."""
    monkeypatch.setattr(few, "MOST", 1 << 20 if request.param == "few" else 0)
    if request.param == "many tiles":
        from palimpsest.kernels.softmax_entropy import triton

        monkeypatch.setattr(chunked, "DIRECT", 0)
        monkeypatch.setattr(chunked, "TILE", 64)
        monkeypatch.setattr(triton, "INTERPRETED_TILE_BYTES", 4096)


@pytest.mark.parametrize("shape", [(16, 32), (67, 65), (1, 1), (1, 509), (131, 10), (5, 1)], ids=str)
def test_agrees_with_float64(shape, dtype, backend, generator):
    assert_agrees(make_logits(shape, dtype, generator), backend, generator)


def test_many_tiles(tiles, dtype, backend, generator):
    for shape in ((3, 1031), (5, 600), (131, 10)):
        assert_agrees(make_logits(shape, dtype, generator), backend, generator)


def extreme_rows(dtype):
    """One-hot by +-1e4, uniform, spread over +-1e4 both ways, two equal maxima, near one-hot."""
    hot = torch.full((2, 11), -1e4)
    hot[0, 3] = hot[1, 10] = 1e4
    spread, twice, near = torch.linspace(-1e4, 1e4, 11), torch.zeros(11), torch.full((11,), -9.0)
    twice[[2, 9]] = 30
    near[5] = 9
    return torch.stack([*hot, torch.zeros(11), spread, spread.flip(0), twice, near, 1e4 + spread / 1e4]).to(dtype)


def test_extreme_logits(dtype, tiles, backend, generator):
    assert_agrees(extreme_rows(dtype), backend, generator)


def test_zero_probabilities(dtype, backend, generator, monkeypatch):
    """-inf at the start, at the end and in whole tiles, where no maximum is yet known: few logits, rows innermost,
    and many tiles, each in every dtype (float64 alone shows where a distance is cut)."""
    monkeypatch.setattr(chunked, "DIRECT", 1 << 14)
    monkeypatch.setattr(chunked, "TILE", 1 << 14)
    rows = make_logits((4, 24), dtype, generator)
    rows[0, :20] = rows[1, 3:] = rows[2, ::2] = rows[3, :23] = -math.inf
    for size in (1, 16, 300):
        assert_agrees(rows.repeat(size, 1), backend, generator)


def test_whole_tiles_of_zero_probability(tiles, dtype, backend, generator):
    """Before the first finite logit and after the last one."""
    rows = make_logits((3, 2600), dtype, generator) - 500
    rows[:, :1100] = rows[:, 1300:] = -math.inf
    assert_agrees(rows, backend, generator)


def test_the_maximum_in_the_last_or_the_first_tile(tiles, backend, generator):
    rows = make_logits((2, 2600), torch.float32, generator, 1.0).sort(-1).values
    for ordered in (rows, rows.flip(1)):
        assert_agrees(ordered, backend, generator)


def small_entropies(dtype, rows):
    """Near one-hot rows: entropies from 1e-5 down to 1e-12."""
    logits = torch.zeros(rows, 40)
    logits[torch.arange(rows), torch.arange(rows) * 7 % 40] = torch.linspace(18, 35, rows)
    return logits.to(dtype)


def test_triton_keeps_the_digits_of_small_entropies(dtype):
    logits = small_entropies(dtype, 90)
    value, exact = kernels.softmax_entropy(logits, backend="triton"), reference.softmax_entropy(logits.double())
    left_by_float64 = unit_roundoff(torch.float64) / unit_roundoff(value.dtype)
    size = 4 * (1 + 35) * exact + left_by_float64  # (5), with distances of at most 35
    assert ((value.double() - exact).abs() <= admitted_error(value.dtype, 40, size)).all()


def test_gradients_near_one_hot_keep_their_digits(dtype, backend, monkeypatch):
    """Where the entropy hardly moves: every path but the direct one."""
    monkeypatch.setattr(chunked, "DIRECT", 0)
    monkeypatch.setattr(chunked, "TILE", 1 << 10)
    z = small_entropies(dtype, 90).requires_grad_()
    exact_z = z.detach().double().requires_grad_()
    (grad,) = torch.autograd.grad(kernels.softmax_entropy(z, backend=backend).sum(), z)
    (exact,) = torch.autograd.grad(reference.softmax_entropy(exact_z).sum(), exact_z)
    admitted = admitted_error(z.dtype, 40, reference.gradient_scale(z.detach(), torch.ones(90), apart=True))
    assert ((grad.double() - exact).abs() <= admitted).all()


def test_hand_computed_values(dtype, tiles, backend):
    """Uniform over 4: ln 4. Over 2 of 4: ln 2. One-hot: 0. Odds 3 to 1: ln 4 - (3/4) ln 3."""
    rows = torch.tensor([[0.0, 0, 0, 0], [0, -math.inf, 0, -math.inf], [0, -1e4, -1e4, -1e4], [0, 0, 0, 0]]).to(dtype)
    exact = torch.tensor([math.log(4), math.log(2), 0, math.log(4)], dtype=torch.float64)
    value = kernels.softmax_entropy(rows, backend=backend)
    assert ((value.double() - exact).abs() <= admitted_error(value.dtype, 4, torch.ones(4))).all()
    odds = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
    value = kernels.softmax_entropy(odds, backend=backend)
    assert (
        abs(value.item() - (math.log(4) - 0.75 * math.log(3))) <= admitted_error(odds.dtype, 2, torch.ones(())).item()
    )


def test_shift_of_a_row_changes_nothing(tiles, backend, generator):
    """Softmax ignores a constant; 4096 is exact to add to multiples of 1/64 in float32."""
    logits = (make_logits((5, 301), torch.float32, generator) * 64).round() / 64
    shifted = kernels.softmax_entropy(logits + 4096, backend=backend)
    assert torch.equal(shifted, kernels.softmax_entropy(logits, backend=backend))


def test_non_contiguous(dtype, tiles, backend, generator):
    assert_agrees(make_logits((13, 134), dtype, generator)[:, ::2], backend, generator)
    assert_agrees(make_logits((17, 129), dtype, generator).t(), backend, generator)


def test_expanded_gradient(tiles, backend, generator):
    """The gradient of a sum has stride 0."""
    z = make_logits((9, 33), torch.float32, generator).requires_grad_()
    (grad,) = torch.autograd.grad(kernels.softmax_entropy(z, backend=backend).sum(), z)
    (spelt_out,) = torch.autograd.grad(kernels.softmax_entropy(z, backend=backend), z, torch.ones(9))
    assert torch.equal(grad, spelt_out)


@pytest.mark.parametrize("chosen", [None, "reference", "triton"])
def test_empty(chosen, dtype):
    logits = torch.zeros(0, 4, dtype=dtype, requires_grad=True)
    value = kernels.softmax_entropy(logits, backend=chosen)
    assert value.shape == (0,)
    assert value.dtype == accumulation_dtype(dtype)
    value.sum().backward()
    assert logits.grad.shape == (0, 4)


@settings(max_examples=10, deadline=None, derandomize=True, database=None)
@given(n=st.integers(1, 90), k=st.integers(1, 300), tile=st.sampled_from([64, 1 << 16]), seed=st.integers(0, 2**31))
@pytest.mark.parametrize("chosen", [None, "triton"])
def test_any_shape(chosen, n, k, tile, seed):
    generator = torch.Generator().manual_seed(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked, "DIRECT", tile)
        patch.setattr(chunked, "TILE", tile)
        assert_agrees(make_logits((n, k), torch.float32, generator), chosen, generator)


@pytest.mark.parametrize("shape", [(3, 5), (2, 1)], ids=str)
def test_gradcheck(shape, tiles, backend, generator):
    logits = make_logits(shape, torch.float64, generator, 1.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: kernels.softmax_entropy(z, backend=backend), (logits,), fast_mode=True)


def test_same_bits_twice(dtype, tiles, backend, generator, assert_same_bits):
    logits = make_logits((9, 421), dtype, generator)
    assert_same_bits(lambda z: kernels.softmax_entropy(z, backend=backend), logits)


def test_value_does_not_depend_on_grad_mode(tiles, backend, generator):
    logits = make_logits((7, 100), torch.float32, generator)
    value = kernels.softmax_entropy(logits, backend=backend)
    assert not value.requires_grad
    assert torch.equal(value, kernels.softmax_entropy(logits.clone().requires_grad_(), backend=backend))


def test_no_probability_matrix(backend, generator, largest_tensor):
    logits = make_logits((512, 1000), torch.bfloat16, generator).requires_grad_()
    tile = chunked.TILE * torch.get_num_threads() * 4
    with largest_tensor(logits) as largest:
        value = kernels.softmax_entropy(logits, backend=backend)
    assert largest.nbytes <= tile
    assert sum(x.numel() for x in value.grad_fn.saved_tensors if x.shape != logits.shape) <= 3 * 512
    with largest_tensor(logits) as largest:
        value.sum().backward()
    assert largest.nbytes <= max(tile, 512 * 1000 * 2), "the gradient, in the dtype of the logits"
    with largest_tensor(logits) as largest:
        kernels.softmax_entropy(logits, backend="reference")
    assert largest.nbytes == 512 * 1000 * 4, "the recorder must see what the definition holds"


def test_no_probability_matrix_just_above_the_direct_limit(generator):
    logits = make_logits((chunked.DIRECT // 512 + 1, 512), torch.float32, generator).requires_grad_()
    value = kernels.softmax_entropy(logits)
    assert sum(x.numel() for x in value.grad_fn.saved_tensors if x.shape != logits.shape) <= 3 * len(logits)


def test_rows_past_the_end_are_not_read(rows_not_to_be_read, generator):
    logits = rows_not_to_be_read(make_logits((16, 21), torch.float32, generator), 5).requires_grad_()
    weight = rows_not_to_be_read(torch.ones(16), 5)
    kernels.softmax_entropy(logits, backend="triton").backward(weight)


def test_stores_stay_in_place(stores_in_place, generator, monkeypatch):
    from palimpsest.kernels.softmax_entropy import triton

    monkeypatch.setattr(triton, "_blocks", lambda *_: (4, 8))
    logits = make_logits((7, 21), torch.float32, generator).requires_grad_()
    kernels.softmax_entropy(logits, backend="triton").sum().backward()


def test_agrees_with_scipy_and_torch(backend, generator):
    logits = make_logits((6, 23), torch.float64, generator)
    value = kernels.softmax_entropy(logits, backend=backend)
    admitted = admitted_error(torch.float64, 23, reference.error_scale(logits, apart=False))
    by_scipy = torch.from_numpy(scipy_entropy(logits.softmax(-1).numpy(), axis=-1))
    by_torch = torch.distributions.Categorical(logits=logits).entropy()
    for other in (by_scipy, by_torch):
        assert ((value - other).abs() <= 2 * admitted).all()


def good():
    return torch.zeros(2, 3)


def with_value(value):
    logits = good()
    logits[1, 0] = value
    return logits


BAD_INPUTS = {
    "not a tensor": ([[0.0]], "logits: got list"),
    "integers": (good().long(), "logits: got dtype torch.int64"),
    "one dimension": (torch.zeros(3), r"logits: got shape \[3\], want \[N, K\]"),
    "no columns": (torch.zeros(2, 0), "logits: got K = 0"),
    "nan": (with_value(math.nan), "logits: row 1 holds NaN"),
    "infinity": (with_value(math.inf), "logits: row 1 holds NaN"),
    "no probability": (torch.full((1, 3), -math.inf), "logits: row 0 .* only -inf"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
@pytest.mark.parametrize("chosen", [None, "reference", "triton"])
def test_bad_input_is_named(case, chosen, tiles):
    logits, message = BAD_INPUTS[case]
    with pytest.raises(ValueError, match=message):
        kernels.softmax_entropy(logits, backend=chosen)


def test_large_finite_logits_are_not_refused(tiles, backend):
    limit = torch.finfo(torch.float32).max
    value = kernels.softmax_entropy(torch.tensor([[limit, limit], [limit, -limit]]), backend=backend)
    assert ((value - torch.tensor([math.log(2), 0])).abs() <= 2.0**-22).all()


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend: got 'cuda', want None or one of 'reference', 'triton'"):
        kernels.softmax_entropy(good(), backend="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(4096, 10), (1031, 1009), (1, 1), (67, 49_157)], ids=str)
def test_compiled(shape, dtype, cuda, generator):
    logits = make_logits(shape, dtype, generator).to(cuda)
    assert_agrees(logits, "triton", torch.Generator(cuda).manual_seed(1))
    kernels.softmax_entropy(logits)
    assert kernels.last_backend() == "softmax_entropy: triton"
