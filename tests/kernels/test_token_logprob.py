"""kernels.token_logprob against its float64 definition, on every path."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest import kernels
from palimpsest.kernels.token_logprob import chunked, reference
from palimpsest.kernels.tolerances import accumulation_dtype, admitted_error

pytestmark = pytest.mark.pairwise


@pytest.fixture(params=["whole", "chunked", "triton"])
def backend(request, monkeypatch):
    """The two torch paths and Triton, with tiles so small that every loop runs more than once."""
    if request.param == "chunked":
        monkeypatch.setattr(chunked, "TILE", 100)
        monkeypatch.setattr(chunked, "RECORDED", 100)
        monkeypatch.setattr(chunked, "ROWS", 40)
    if request.param == "triton":
        from palimpsest.kernels.token_logprob import triton

        monkeypatch.setattr(triton, "SMALLEST_BUFFER", 2000)
    return "triton" if request.param == "triton" else None


def make_inputs(tokens, width, vocabulary, dtype, generator, scale=1.0):
    hidden = torch.randn(tokens, width, generator=generator).to(dtype)
    weight = (torch.randn(vocabulary, width, generator=generator) * scale).to(dtype)
    return hidden, weight, torch.randint(vocabulary, (tokens,), generator=generator)


def assert_agrees(hidden, weight, targets, backend, generator, rate=1.0):
    """Value and both gradients within the error model of the float64 definition."""
    (tokens, width), vocabulary = hidden.shape, len(weight)
    h, w = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
    exact_h, exact_w = (x.detach().double().clone().requires_grad_() for x in (hidden, weight))
    exact = reference.token_logprob(exact_h, exact_w, targets.long())
    scale = reference.error_scale(hidden, weight, targets.long())
    for graph in (False, True) if backend is None else (True,):  # the torch path takes them apart
        with torch.set_grad_enabled(graph):
            value = kernels.token_logprob(h, w, targets, backend=backend)
        assert value.shape == (tokens,)
        assert value.dtype == accumulation_dtype(hidden.dtype)
        assert (value <= 0).all()
        assert ((value.double() - exact).abs() <= admitted_error(value.dtype, width + vocabulary, scale)).all()

    weighting = torch.randn(value.shape, generator=generator).to(value) * rate
    grads = torch.autograd.grad(value, (h, w), weighting)
    exact_grads = torch.autograd.grad(exact, (exact_h, exact_w), weighting.double())
    scales = reference.gradient_scale(hidden, weight, targets.long(), weighting)
    terms = (width + vocabulary, width + tokens)
    for grad, exact_grad, scale, length in zip(grads, exact_grads, scales, terms, strict=True):
        assert grad.dtype == hidden.dtype
        assert grad.shape == exact_grad.shape
        assert ((grad.double() - exact_grad).abs() <= admitted_error(grad.dtype, length, scale)).all()


SHAPES = [(16, 32, 64), (67, 65, 131), (1, 1, 1), (1, 7, 400), (131, 3, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_float64(shape, dtype, backend, generator):
    assert_agrees(*make_inputs(*shape, dtype, generator), backend, generator)


def test_vocabulary_in_several_splits(dtype, backend, generator):
    """More tiles of the vocabulary than splits are wanted, the last one cut short."""
    if backend == "triton":
        from palimpsest.kernels.token_logprob import triton

        wanted, triton.SPLIT_TARGET = triton.SPLIT_TARGET, 3
    try:
        assert_agrees(*make_inputs(3, 5, 385, dtype, generator), backend, generator)
    finally:
        if backend == "triton":
            triton.SPLIT_TARGET = wanted


@pytest.mark.parametrize("position", [0, 63, 64, 130])
def test_target_at_the_edge_of_a_tile(position, backend, generator):
    hidden, weight, targets = make_inputs(5, 8, 131, torch.float32, generator)
    assert_agrees(hidden, weight, torch.full_like(targets, position), backend, generator)


def test_hand_computed_values(dtype, backend):
    """Logits (0, ln 3 . 1) have p = (1/4, 3/4); equal logits have p = 1/2."""
    hidden = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=dtype)
    weight = torch.tensor([[0.0, 2.0], [1.0, 2.0]], dtype=dtype)
    exact = torch.tensor([-math.log1p(math.e), 1 - math.log1p(math.e), -math.log(2)], dtype=torch.float64)
    value = kernels.token_logprob(hidden, weight, torch.tensor([0, 1, 0]), backend=backend)
    assert ((value.double() - exact).abs() <= admitted_error(value.dtype, 4, torch.tensor(4.0))).all()


def test_extreme_logits(dtype, backend, generator):
    """Logits of +-1e4 and 0: certain, impossible and uniform targets, in one call."""
    hidden = torch.tensor([[100.0, 0.0], [-100.0, 0.0], [0.0, 0.0], [100.0, 0.0]]).to(dtype)
    weight = torch.stack([torch.linspace(-100, 100, 131), torch.ones(131)], 1).to(dtype)
    targets = torch.tensor([130, 130, 7, 64])
    assert_agrees(hidden, weight, targets, backend, generator)
    value = kernels.token_logprob(hidden, weight, targets, backend=backend)
    assert value[1] == pytest.approx(-2e4, rel=1e-3)


@pytest.mark.parametrize("rate", [0.0, 1e-3, 1e3])
def test_size_of_the_incoming_gradient(rate, dtype, backend, generator):
    """Scaled into the range of float16 and back. Zero gives zero."""
    assert_agrees(*make_inputs(33, 9, 70, dtype, generator, 0.1), backend, generator, rate)


def test_many_small_probabilities_are_not_lost(backend):
    """Each is below the smallest float16, yet all of them make five sixths of the gradient.

    1 - p_y = 1.5e-5 keeps eight bits in float32 before any sum, hence the wide band.
    """
    hidden = torch.tensor([[1.0]], dtype=torch.float16, requires_grad=True)
    weight = torch.full((1001, 1), -15.0, dtype=torch.float16)
    weight[0] = 3.0
    kernels.token_logprob(hidden, weight, torch.tensor([0]), backend=backend).sum().backward()
    others = 1000 * math.exp(-18)
    assert hidden.grad.item() == pytest.approx(18 * others / (1 + others), rel=0.1)


def test_non_contiguous(dtype, backend, generator):
    hidden = make_inputs(13, 34, 1, dtype, generator)[0][:, ::2]
    weight = make_inputs(17, 71, 1, dtype, generator)[0].t()
    targets = torch.randint(71, (26,), generator=generator)[::2]
    assert_agrees(hidden, weight, targets, backend, generator)


def test_stores_stay_in_place(stores_in_place, generator, monkeypatch):
    """More tokens, columns and parts of the vocabulary than a tile, in a buffer that is filled more than once."""
    from palimpsest.kernels.token_logprob import triton

    monkeypatch.setattr(triton, "_blocks", lambda *_: (16, 16, 16, 4))
    monkeypatch.setattr(triton, "SMALLEST_BUFFER", 700)
    hidden, weight, targets = make_inputs(21, 19, 69, torch.float32, generator)
    hidden.requires_grad_(), weight.requires_grad_()
    kernels.token_logprob(hidden, weight, targets, backend="triton").sum().backward()


def test_int32_targets(backend, generator):
    hidden, weight, targets = make_inputs(7, 5, 90, torch.float32, generator)
    assert_agrees(hidden, weight, targets.int(), backend, generator)


@pytest.mark.parametrize("chosen", [None, "reference", "triton"])
def test_empty(chosen, dtype):
    hidden, weight = torch.zeros(0, 4, dtype=dtype), torch.zeros(3, 4, dtype=dtype)
    hidden.requires_grad_(), weight.requires_grad_()
    value = kernels.token_logprob(hidden, weight, torch.zeros(0, dtype=torch.int64), backend=chosen)
    assert value.shape == (0,)
    assert value.dtype == accumulation_dtype(dtype)
    value.sum().backward()
    assert hidden.grad.shape == (0, 4)
    assert torch.equal(weight.grad, torch.zeros_like(weight))


@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(t=st.integers(1, 70), d=st.integers(1, 70), v=st.integers(1, 140), seed=st.integers(0, 2**31))
@pytest.mark.parametrize("chosen", [None, "triton"])
def test_any_shape(chosen, t, d, v, seed):
    generator = torch.Generator().manual_seed(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked, "TILE", 64)
        patch.setattr(chunked, "RECORDED", 64)
        assert_agrees(*make_inputs(t, d, v, torch.float32, generator), chosen, generator)


def test_gradcheck(backend, generator):
    hidden, weight, targets = make_inputs(3, 2, 40, torch.float64, generator)
    # One random direction suffices, and the interpreter is slow.
    assert torch.autograd.gradcheck(
        lambda h, w: kernels.token_logprob(h, w, targets, backend=backend),
        (hidden.requires_grad_(), weight.requires_grad_()),
        fast_mode=True,
    )


@pytest.mark.parametrize("wanted", ["hidden", "weight"])
def test_gradient_only_where_wanted(wanted, backend, generator):
    hidden, weight, targets = make_inputs(5, 6, 70, torch.float32, generator)
    both = [x.clone().requires_grad_() for x in (hidden, weight)]
    one = [x.clone().requires_grad_(name == wanted) for name, x in (("hidden", hidden), ("weight", weight))]
    for pair in (both, one):
        kernels.token_logprob(*pair, targets, backend=backend).sum().backward()
    for name, x, full in zip(("hidden", "weight"), one, both, strict=True):
        assert torch.equal(x.grad, full.grad) if name == wanted else x.grad is None


def test_same_bits_twice(backend, generator):
    hidden, weight, targets = make_inputs(70, 21, 90, torch.bfloat16, generator)

    def run():
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        value = kernels.token_logprob(h, w, targets, backend=backend)
        value.square().sum().backward()
        return value, h.grad, w.grad

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("frozen", [False, True])
def test_torch_path_holds_one_tile(frozen, generator, monkeypatch, largest_tensor):
    """Whole logits pay only where the gradient of weight would need them twice, so not with frozen weights."""
    tokens, vocabulary = 100, 400
    monkeypatch.setattr(chunked, "TILE", 2000)
    monkeypatch.setattr(chunked, "RECORDED", tokens * vocabulary - (not frozen))
    hidden, weight, targets = make_inputs(tokens, 3, vocabulary, torch.float32, generator)
    hidden.requires_grad_(), weight.requires_grad_(not frozen)
    with largest_tensor() as largest:
        kernels.token_logprob(hidden, weight, targets).sum().backward()
        with torch.no_grad():
            kernels.token_logprob(hidden, weight.requires_grad_(), targets)
    assert largest.nbytes <= 2000 * 4
    with largest_tensor() as largest:
        kernels.token_logprob(hidden, weight, targets, backend="reference")
    assert largest.nbytes == tokens * vocabulary * 4, "the recorder must see what the definition holds"


def test_without_a_graph_whole_rows_are_taken_in_two_tiles(generator, monkeypatch, largest_tensor):
    """The last tile is cut short; a target outside is refused before any of them."""
    monkeypatch.setattr(chunked, "TILE", 2000)
    monkeypatch.setattr(chunked, "FEWEST", 10)
    hidden, weight, targets = make_inputs(33, 5, 400, torch.float32, generator)
    with largest_tensor() as largest:
        value = kernels.token_logprob(hidden, weight, targets)
    assert largest.nbytes == 10 * 400 * 4
    exact = reference.token_logprob(hidden.double(), weight.double(), targets)
    scale = reference.error_scale(hidden, weight, targets)
    assert ((value.double() - exact).abs() <= admitted_error(value.dtype, 405, scale)).all()
    targets[-1] = 400
    with pytest.raises(ValueError, match=r"targets: got 400, want 0 \.\.\. 399"):
        kernels.token_logprob(hidden, weight, targets)


class NoLaunch:
    """Stands for a kernel: what the host allocates does not depend on what kernels compute."""

    def __getitem__(self, grid):
        return lambda *args, **constants: None


def test_triton_holds_one_percent_of_the_logits(monkeypatch, largest_tensor):
    from palimpsest.kernels.token_logprob import triton

    for kernel in ("_vocabulary_statistics", "_coefficients", "_product"):
        monkeypatch.setattr(triton, kernel, NoLaunch())
    tokens, width, vocabulary = 2000, 8, 60_000
    hidden, weight = torch.zeros(tokens, width).half(), torch.zeros(vocabulary, width).half()
    targets = torch.zeros(tokens, dtype=torch.int64)
    with largest_tensor() as largest:
        _, *kept = triton.forward(hidden, weight, targets, True)
        tuple(triton.backward(torch.ones(tokens), hidden, weight, targets, *kept, (True, True)))
    assert weight.nbytes < largest.nbytes <= tokens * vocabulary * 2 // 100


def good(**changes):
    inputs = {"hidden": torch.zeros(2, 3), "weight": torch.zeros(4, 3), "targets": torch.tensor([0, 3])}
    return {**inputs, **changes}


def with_value(rows, value):
    x = torch.zeros(rows, 3)
    x[1, 0] = value
    return x


BAD_INPUTS = {
    "not a tensor": (good(hidden=[[0.0]]), "hidden: got list"),
    "integers": (good(weight=torch.zeros(4, 3).long()), "weight: got dtype torch.int64"),
    "three dimensions": (good(hidden=torch.zeros(1, 2, 3)), r"hidden: got shape \[1, 2, 3\], want \[T, D\]"),
    "unequal width": (good(weight=torch.zeros(4, 5)), "weight: got D = 5, want that of hidden, 3"),
    "two dtypes": (good(weight=torch.zeros(4, 3).double()), "weight: got dtype torch.float64"),
    "no vocabulary": (good(weight=torch.zeros(0, 3)), r"weight: got shape \[0, 3\]"),
    "no width": (good(hidden=torch.zeros(2, 0), weight=torch.zeros(4, 0)), r"weight: got shape \[4, 0\]"),
    "targets in a list": (good(targets=[0, 1]), "targets: got list"),
    "float targets": (good(targets=torch.zeros(2)), "targets: got dtype torch.float32"),
    "bytes as targets": (good(targets=torch.zeros(2).byte()), "targets: got dtype torch.uint8, want int32 or int64"),
    "too many targets": (good(targets=torch.zeros(3).long()), r"targets: got shape \[3\], want \[T\] = \[2\]"),
    "negative target": (good(targets=torch.tensor([0, -100])), r"targets: got -100, want 0 \.\.\. 3"),
    "target too large": (good(targets=torch.tensor([0, 4])), r"targets: got 4, want 0 \.\.\. 3"),
    "nan": (good(hidden=with_value(2, math.nan)), "hidden: got NaN or infinity"),
    "nan in weight": (good(weight=with_value(4, math.nan)), "weight: got NaN or infinity"),
    "infinity": (good(hidden=torch.ones(2, 3), weight=with_value(4, math.inf)), "weight: got NaN or infinity"),
    "overflow": (good(hidden=torch.full((2, 3), 1e30), weight=torch.full((4, 3), 1e30)), "products .* overflow"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
@pytest.mark.parametrize("chosen", [None, "reference", "triton"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.*")
def test_bad_input_is_named(case, chosen):
    inputs, message = BAD_INPUTS[case]
    with pytest.raises(ValueError, match=message):
        kernels.token_logprob(**inputs, backend=chosen)


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend: got 'cuda', want None or one of 'reference', 'triton'"):
        kernels.token_logprob(**good(), backend="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(1024, 576, 4096), (257, 65, 1031), (1, 1, 1), (3, 2048, 5001)], ids=str)
def test_compiled(shape, dtype, cuda, generator):
    inputs = (x.to(cuda) for x in make_inputs(*shape, dtype, generator, shape[1] ** -0.5))
    assert_agrees(*inputs, None, torch.Generator().manual_seed(1))
    assert kernels.last_backend() == "token_logprob: triton"
