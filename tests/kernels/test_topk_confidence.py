"""kernels.topk_confidence against its float64 definition, on every backend."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest import kernels
from palimpsest.kernels.tolerances import accumulation_dtype, admitted_error
from palimpsest.kernels.topk_confidence import grouped, reference

pytestmark = pytest.mark.pairwise


@pytest.fixture(params=["direct", "grouped", "triton"])
def backend(request, monkeypatch):
    """The torch path with and without groups, and Triton."""
    if request.param == "grouped":
        monkeypatch.setattr(grouped, "WIDE", 0)
    return "triton" if request.param == "triton" else None


def make_logits(rows, width, dtype, generator):
    return (torch.randn(rows, width, generator=generator) * 3).to(dtype)


def assert_agrees(logits, k, backend):
    """Indices equal, probabilities and alpha within the error model of the float64 definition."""
    probs, ids, alpha = kernels.topk_confidence(logits, k, backend=backend)
    exact_probs, exact_ids, exact_alpha = reference.topk_confidence(logits.double(), k)
    assert ids.dtype == torch.int64
    assert torch.equal(ids, exact_ids)
    assert probs.dtype == alpha.dtype == accumulation_dtype(logits.dtype)
    assert alpha.shape == (len(logits),)
    assert ((alpha >= 0) & (alpha <= 1)).all()
    of_probs, of_alpha = reference.error_scales(exact_probs)
    assert ((probs.double() - exact_probs).abs() <= admitted_error(probs.dtype, k, of_probs)).all()
    assert ((alpha.double() - exact_alpha).abs() <= admitted_error(alpha.dtype, k, of_alpha)).all()


@pytest.mark.parametrize(
    "case", [(16, 512, 10), (67, 131, 3), (1, 1, 1), (1, 700, 10), (3, 7, 7), (2, 300, 100)], ids=str
)
def test_agrees_with_float64(case, dtype, backend, generator):
    """16-bit logits hold many equal values, at the border of the k too."""
    rows, width, k = case
    assert_agrees(make_logits(rows, width, dtype, generator), k, backend)


def test_equal_logits_give_the_lower_index(dtype, backend):
    logits = torch.zeros(2, 260)
    logits[0, [259, 64, 63]] = 1.0
    logits[1] = -0.0
    logits[1, 200:] = 0.0
    _, ids, _ = kernels.topk_confidence(logits.to(dtype), 5, backend=backend)
    assert ids.tolist() == [[63, 64, 259, 0, 1], [0, 1, 2, 3, 4]]


def test_equal_logits_at_the_border_alone(dtype, backend):
    """No two of the k are equal, but the k-th has equals after it; all negative, on both sides of -2."""
    logits = torch.full((1, 260), -5.0)
    logits[0, [250, 240, 230, 220]] = torch.tensor([-1.0, -2.0, -3.0, -4.0])
    _, ids, _ = kernels.topk_confidence(logits.to(dtype), 5, backend=backend)
    assert ids.tolist() == [[250, 240, 230, 220, 0]]


def test_equals_that_hide_behind_larger_ones(dtype, backend):
    """The fifth and the sixth are equal, and with every 37th column in a group neither is the largest of its own."""
    logits = torch.full((2, 261), -5.0)
    for row, (first, second) in zip(logits, ((3, 1), (1, 3)), strict=True):
        row[[first + 37, second + 37, 5, 6, first, second]] = torch.tensor([9.0, 8.0, 7.0, 6.0, 5.0, 5.0])
    _, ids, _ = kernels.topk_confidence(logits.to(dtype), 5, backend=backend)
    assert ids.tolist() == [[40, 38, 5, 6, 1], [38, 40, 5, 6, 1]]


def test_equals_anywhere_among_rows_without(dtype, backend, generator):
    """Few values or many: rows with equals among the k, at their border alone, and with none."""
    for values in (10, 100, 1000):
        logits = torch.randint(values, (64, 261), generator=generator).to(dtype)
        assert_agrees(logits, 5, backend)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_many_rows_of_extreme_logits(k, dtype, backend):
    """More rows than Python looks at itself: one probability alone, all equal, and +-1e4."""
    rows = torch.full((3, 7), -math.inf)
    rows[0, 2], rows[1] = 0.0, 0.0
    rows[2] = torch.linspace(-1e4, 1e4, 7)
    assert_agrees(rows.repeat(50, 1).to(dtype), k, backend)


def test_hand_computed_values(dtype, backend):
    """Uniform: alpha 0. One certain: 1. The paper's lemma 4.3 fails at (1/2, 1/2, 0, ...), alpha 1 - log10 2."""
    logits = torch.full((3, 80), -math.inf)
    logits[0] = 2.5
    logits[1, 70] = 1e4
    logits[2, [3, 66]] = -1e4
    probs, ids, alpha = kernels.topk_confidence(logits.to(dtype), 10, backend=backend)
    exact = torch.tensor([0.0, 1.0, 1 - math.log10(2)], dtype=torch.float64)
    assert ((alpha.double() - exact).abs() <= admitted_error(alpha.dtype, 10, torch.tensor(2.0))).all()
    assert probs[1].tolist() == [1.0] + [0.0] * 9
    assert probs[2].tolist() == [0.5, 0.5] + [0.0] * 8
    assert ids[2].tolist() == [3, 66, 0, 1, 2, 4, 5, 6, 7, 8]


def test_extreme_logits(dtype, backend):
    logits = torch.stack([torch.linspace(-1e4, 1e4, 300), torch.linspace(1e4, 9.9e3, 300)]).to(dtype)
    assert_agrees(logits, 10, backend)


@pytest.mark.parametrize("k", [2, 3, 10])
@pytest.mark.parametrize("way", [grouped._of_few, grouped._of_many, grouped._by_torch])
def test_every_way_from_the_largest_to_alpha(way, k, dtype, generator):
    """Also the way of other devices, which no call takes on a CPU; equal logits, whose entropy is rounded beyond
    log k, and a column too many."""
    top = make_logits(400, k + 1, dtype, generator).sort(-1, descending=True).values
    top[:200] = top[:200, :1]
    probs, alpha = way(top, k)
    exact_probs, _, exact_alpha = reference.topk_confidence(top[:, :k].double(), k)
    of_probs, of_alpha = reference.error_scales(exact_probs)
    assert probs.dtype == alpha.dtype == accumulation_dtype(dtype)
    assert ((probs.double() - exact_probs).abs() <= admitted_error(probs.dtype, k, of_probs)).all()
    assert ((alpha.double() - exact_alpha).abs() <= admitted_error(alpha.dtype, k, of_alpha)).all()
    assert ((alpha >= 0) & (alpha <= 1)).all()


def test_k_of_one_is_certain(backend, generator):
    probs, _, alpha = kernels.topk_confidence(make_logits(4, 90, torch.float32, generator), 1, backend=backend)
    assert probs.tolist() == [[1.0]] * 4
    assert alpha.tolist() == [1.0] * 4


def test_non_contiguous(dtype, backend, generator):
    assert_agrees(make_logits(300, 13, dtype, generator).t()[:, ::2], 5, backend)


@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(rows=st.integers(1, 70), width=st.integers(1, 300), data=st.data(), seed=st.integers(0, 2**31))
@pytest.mark.parametrize("chosen", [None, "triton"])
def test_any_shape(chosen, rows, width, data, seed):
    k = data.draw(st.integers(1, min(width, 12)))
    logits = make_logits(rows, width, torch.float16, torch.Generator().manual_seed(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouped, "WIDE", 0)
        assert_agrees(logits, k, chosen)


def test_same_bits_twice(dtype, backend, generator, assert_same_bits):
    logits = make_logits(70, 300, dtype, generator)
    assert_same_bits(lambda z: kernels.topk_confidence(z, 3, backend=backend), logits)


def test_no_second_vocabulary(generator, largest_tensor):
    """No probabilities of the whole vocabulary: what is held has the size of groups and candidates."""
    logits = make_logits(8, 40_000, torch.float32, generator)
    with largest_tensor(logits) as largest:
        kernels.topk_confidence(logits, 10)
    assert largest.nbytes <= logits.nbytes / 8
    with largest_tensor(logits) as largest:
        kernels.topk_confidence(logits, 10, backend="reference")
    assert largest.nbytes >= logits.nbytes, "the recorder must see what the definition holds"


def test_rows_past_the_end_are_not_read(rows_not_to_be_read, generator):
    logits = rows_not_to_be_read(make_logits(16, 300, torch.float32, generator), 5)
    kernels.topk_confidence(logits, 3, backend="triton")


def test_stores_stay_in_place(stores_in_place, generator, monkeypatch):
    from palimpsest.kernels.topk_confidence import triton

    monkeypatch.setattr(triton, "_blocks", lambda *_: (4, 64))
    kernels.topk_confidence(make_logits(7, 300, torch.float32, generator), 3, backend="triton")


def test_results_carry_no_graph(backend, generator):
    logits = make_logits(3, 40, torch.float32, generator).requires_grad_()
    assert not any(x.requires_grad for x in kernels.topk_confidence(logits, 4, backend=backend))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_nan_of_either_sign_is_named_among_equals(sign, dtype, backend):
    """Where equal logits are ranked by their bits, NaN must not sink below them."""
    logits = torch.zeros(2, 300)
    logits[1, 200] = math.copysign(math.nan, sign)
    with pytest.raises(ValueError, match="logits: row 1 holds NaN"):
        kernels.topk_confidence(logits.to(dtype), 5, backend=backend)


@pytest.mark.parametrize("chosen", [None, "reference", "triton"])
def test_empty(chosen, dtype):
    probs, ids, alpha = kernels.topk_confidence(torch.zeros(0, 5, dtype=dtype), 3, backend=chosen)
    assert (probs.shape, ids.shape, alpha.shape) == ((0, 3), (0, 3), (0,))
    assert probs.dtype == alpha.dtype == accumulation_dtype(dtype)
    assert ids.dtype == torch.int64


def with_value(value):
    logits = torch.zeros(2, 3)
    logits[1, 0] = value
    return logits


BAD_INPUTS = {
    "not a tensor": ([[0.0]], 1, "logits: got list"),
    "integers": (torch.zeros(2, 3).long(), 1, "logits: got dtype torch.int64"),
    "one dimension": (torch.zeros(3), 1, r"logits: got shape \[3\], want \[N, V\]"),
    "k of zero": (torch.zeros(2, 3), 0, "k: got 0, want an integer in 1"),
    "k above V": (torch.zeros(2, 3), 4, r"k: got 4, .* V = 3"),
    "k too large": (torch.zeros(1, 2000), 1025, "k: got 1025"),
    "k not an integer": (torch.zeros(2, 3), 2.0, r"k: got 2\.0"),
    "nan": (with_value(math.nan), 1, "logits: row 1 holds NaN"),
    "infinity": (with_value(math.inf), 1, "logits: row 1 holds NaN"),
    "no probability": (torch.full((1, 3), -math.inf), 1, "logits: row 0 .* only -inf"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
@pytest.mark.parametrize("chosen", [None, "reference", "triton"])
def test_bad_input_is_named(case, chosen):
    logits, k, message = BAD_INPUTS[case]
    with pytest.raises(ValueError, match=message):
        kernels.topk_confidence(logits, k, backend=chosen)


@pytest.mark.gpu
@pytest.mark.parametrize("case", [(64, 151_936, 10), (257, 8193, 3), (1, 1, 1), (3, 5000, 200)], ids=str)
def test_compiled(case, dtype, cuda, generator):
    rows, width, k = case
    assert_agrees(make_logits(rows, width, dtype, generator).to(cuda), k, None)
    assert kernels.last_backend() == "topk_confidence: triton"
