"""kernels.project_orthogonal against its float64 definition, on every backend."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest import kernels
from palimpsest.kernels import _dispatch, _multi_tensor
from palimpsest.kernels.project_orthogonal import chunked, reference
from palimpsest.kernels.tolerances import admitted_error

pytestmark = pytest.mark.pairwise

SHAPES = [(16, 32), (), (101,), (0, 4), (3, 5, 2, 2)]


def make_grads(shapes, dtype, generator, cosine_sign=1):
    """Correlated pairs, so that c is far from 0."""
    grads_r = [torch.randn(shape, generator=generator) for shape in shapes]
    grads_f = [torch.randn(r.shape, generator=generator) + cosine_sign * r / 2 for r in grads_r]
    return [f.to(dtype) for f in grads_f], [r.to(dtype) for r in grads_r]


def assert_agrees(grads_f, grads_r, backend, lam=0.7, mode="always", scope="model"):
    """Result and inner products within the error model of the float64 definition."""
    result, products = kernels.project_orthogonal(
        grads_f, grads_r, lam, mode, scope, return_products=True, backend=backend
    )
    doubled_f, doubled_r = [f.double() for f in grads_f], [r.double() for r in grads_r]
    exact, exact_products = reference.project(doubled_f, doubled_r, lam, mode, scope)
    scales = reference.error_scale(grads_f, grads_r, lam, mode, scope)
    assert len(result) == len(exact)
    for value, right, r, scale in zip(result, exact, grads_r, scales, strict=True):
        assert value.shape == r.shape
        assert value.dtype == r.dtype
        assert ((value.double() - right).abs() <= admitted_error(value.dtype, 2, scale)).all()
    assert products.dtype == torch.float64
    assert products.shape == (len(grads_r), 3)
    sizes = reference.inner_products([f.abs() for f in grads_f], [r.abs() for r in grads_r])
    for i, r in enumerate(grads_r):
        dtype = torch.float64 if r.dtype == torch.float64 else torch.float32
        assert ((products[i] - exact_products[i]).abs() <= admitted_error(dtype, r.numel(), sizes[i])).all()


@pytest.mark.parametrize(
    ("sign", "mode", "scope"),
    [(1, "always", "model"), (-1, "conflict", "model"), (1, "conflict", "model"), (-1, "always", "layer")],
)
def test_agrees_with_float64(sign, mode, scope, dtype, backend, generator):
    assert_agrees(*make_grads(SHAPES, dtype, generator, sign), backend, mode=mode, scope=scope)


def test_only_layers_in_conflict_are_projected(dtype, backend, generator):
    agreeing, opposed = make_grads([(31,)], dtype, generator, 1), make_grads([(31,)], dtype, generator, -1)
    grads_f, grads_r = agreeing[0] + opposed[0], agreeing[1] + opposed[1]
    assert_agrees(grads_f, grads_r, backend, mode="conflict", scope="layer")


@pytest.mark.parametrize("lam", [0.0, -1.5, 0.1, 1.0, 1e3])
def test_weight(lam, dtype, backend, generator):
    assert_agrees(*make_grads([(40,), (3, 3)], dtype, generator), backend, lam=lam)


@pytest.mark.parametrize("size", [1, 8191, 8192, 8193, 3 * 8192, 70_001])
def test_many_pieces(size, backend, generator):
    """Around the pieces of the interpreter and past those of the torch path."""
    assert_agrees(*make_grads([(size,), (5,)], torch.float32, generator), backend, scope="layer")


def test_more_tensors_than_one_sum_takes(backend, generator):
    """The interpreted kernels add the products of 16 tensors at once."""
    assert_agrees(*make_grads([(2,)] * 19, torch.float32, generator), backend)


def test_two_dtypes_in_one_model(backend, generator):
    grads_f, grads_r = make_grads(SHAPES, torch.float32, generator)
    dtypes = [torch.float32, torch.bfloat16, torch.float64, torch.float16]
    grads_f, grads_r = ([x.to(dtypes[i % 4]) for i, x in enumerate(grads)] for grads in (grads_f, grads_r))
    assert_agrees(grads_f, grads_r, backend)


def test_small_tensors_of_float32_beside_a_large_one(backend, generator):
    assert_agrees(*make_grads([(3, 4), (chunked.PIECE + 1,), (2,)], torch.float32, generator), backend)


@pytest.mark.parametrize("size", [1e-30, 1e-22, 1.0, 1e22, 1e30])
@pytest.mark.parametrize("size_f", [1e-12, 1.0, 1e10])
def test_squares_beyond_the_range_of_float32(size, size_f, backend, generator):
    """c is a ratio: it does not care for the size of g_r, though ||g_r||^2 leaves float32."""
    grads_f, grads_r = make_grads([(30,), (7,)], torch.float32, generator)
    f, r = [x * min(size * size_f, 1e37) for x in grads_f], [x * size for x in grads_r]
    assert_agrees(f, r, backend)


def test_extreme_float16(backend):
    largest = torch.finfo(torch.float16).max
    f = torch.tensor([largest, -largest, 6e-8, 0.0], dtype=torch.float16)
    r = torch.tensor([largest, 1.0, -6e-8, 3.0], dtype=torch.float16)
    assert_agrees([f], [r], backend, lam=0.5)


def test_coefficient_beyond_the_range_of_float16(backend):
    """c is 1e6, which float16 cannot hold, while every gradient and the result can."""
    f, r = torch.tensor([1.0, 0.5], dtype=torch.float16), torch.tensor([1e-6, 0.0], dtype=torch.float16)
    assert_agrees([f], [r], backend, lam=1.0)


@pytest.mark.parametrize("lam", [1.0, 0.5])
def test_coefficient_beyond_the_range_of_float32(lam):
    """c is 1e50; only the torch path promises it."""
    assert_agrees([torch.tensor([1e30, 1e28])], [torch.tensor([1e-20, 0.0])], None, lam=lam)


def test_hand_computed(dtype, backend):
    """g_f = (3, 1), g_r = (2, 0): c = 3/2, g_f - c g_r = (0, 1). Opposed: g_f = (-3, 1) gives the same."""
    r, f = torch.tensor([2.0, 0.0], dtype=dtype), torch.tensor([3.0, 1.0], dtype=dtype)
    opposed = torch.tensor([-3.0, 1.0], dtype=dtype)

    def run(forget, **options):
        return kernels.project_orthogonal([forget], [r], 2.0, backend=backend, **options)[0].tolist()

    assert run(f) == [2.0, 2.0]
    assert run(opposed) == [2.0, 2.0]
    assert run(f, mode="conflict") == [8.0, 2.0]
    assert run(opposed, mode="conflict") == [2.0, 2.0]


def test_scope_decides_who_shares_c(backend):
    """Layers (1) and (1) with g_f = 1 and -1: apart they vanish, together <g_f, g_r> = 0 and nothing does."""
    grads_f, grads_r = [torch.ones(1), -torch.ones(1)], [torch.ones(1), torch.ones(1)]
    apart = kernels.project_orthogonal(grads_f, grads_r, scope="layer", backend=backend)
    together = kernels.project_orthogonal(grads_f, grads_r, scope="model", backend=backend)
    assert torch.stack(apart).flatten().tolist() == [1.0, 1.0]
    assert torch.stack(together).flatten().tolist() == [2.0, 0.0]


def test_forget_part_is_orthogonal(dtype, backend, generator):
    """The first-order change of the retain loss by the added part is 0, up to rounding of the result."""
    grads_f, grads_r = make_grads([(50, 20), (33,)], dtype, generator)
    result = kernels.project_orthogonal(grads_f, grads_r, 3.0, backend=backend)
    scales = reference.error_scale(grads_f, grads_r, 3.0, "always", "model")
    added = sum(((out.double() - r.double()) * r.double()).sum() for out, r in zip(result, grads_r, strict=True))
    admitted = sum(
        (admitted_error(dtype, 2, scale) * r.double().abs()).sum() for scale, r in zip(scales, grads_r, strict=True)
    )
    assert added.abs() <= admitted


@pytest.mark.parametrize("scope", ["model", "layer"])
def test_zero_gradients(scope, dtype, backend, generator):
    grads_f, _ = make_grads([(5,), (7,)], dtype, generator)
    zeros = [torch.zeros_like(f) for f in grads_f]
    for value, f in zip(
        kernels.project_orthogonal(grads_f, zeros, scope=scope, backend=backend), grads_f, strict=True
    ):
        assert torch.equal(value, f)
    for value, r in zip(
        kernels.project_orthogonal(zeros, grads_f, scope=scope, backend=backend), grads_f, strict=True
    ):
        assert torch.equal(value, r)


def test_products_give_the_norms_of_reweighting(backend):
    grads_f = [torch.tensor([3.0, 4.0]), torch.tensor([1.0])]
    grads_r = [torch.tensor([0.0, 2.0]), torch.tensor([-6.0])]
    _, products = kernels.project_orthogonal(grads_f, grads_r, return_products=True, backend=backend)
    assert products.tolist() == [[8.0, 25.0, 4.0], [-6.0, 1.0, 36.0]]
    assert products[:, 1:].sqrt().sum(0).tolist() == [6.0, 8.0]


def test_non_contiguous(dtype, backend, generator):
    (f, g), (r, s) = make_grads([(13, 34), (9, 17)], dtype, generator)
    assert_agrees([f[:, ::2], g.t(), f[:1].expand(4, 34)], [r[:, ::2], s.t(), r[:1].expand(4, 34)], backend)


def test_unaligned(dtype, backend, generator):
    grads_f, grads_r = make_grads([(9001,)], dtype, generator)
    assert_agrees([grads_f[0][1:]], [grads_r[0][1:]], backend)


def test_arguments_are_not_changed(backend, generator):
    grads_f, grads_r = make_grads(SHAPES, torch.float32, generator)
    before = [x.clone() for x in grads_f + grads_r]
    result = kernels.project_orthogonal(grads_f, grads_r, backend=backend)
    for now, then in zip(grads_f + grads_r, before, strict=True):
        assert torch.equal(now, then)
    addresses = {x.data_ptr() for x in grads_f + grads_r if x.numel()}
    assert not addresses & {x.data_ptr() for x in result if x.numel()}


def test_stores_stay_in_place(stores_in_place, generator):
    kernels.project_orthogonal(*make_grads(SHAPES, torch.float32, generator), backend="triton")


@pytest.mark.parametrize("chosen", [None, "reference", "triton"])
def test_empty(chosen):
    result, products = kernels.project_orthogonal([], [], return_products=True, backend=chosen)
    assert result == []
    assert products.shape == (0, 3)
    (result,), products = kernels.project_orthogonal(
        [torch.zeros(0, 3)], [torch.zeros(0, 3)], return_products=True, backend=chosen
    )
    assert result.shape == (0, 3)
    assert products.tolist() == [[0.0, 0.0, 0.0]]


@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 40), max_size=3), min_size=1, max_size=5),
    lam=st.floats(-4, 4),
    mode=st.sampled_from(["always", "conflict"]),
    scope=st.sampled_from(["model", "layer"]),
    seed=st.integers(0, 2**31),
)
@pytest.mark.parametrize("chosen", [None, "triton"])
def test_any_shapes(chosen, shapes, lam, mode, scope, seed):
    generator = torch.Generator().manual_seed(seed)
    assert_agrees(*make_grads(shapes, torch.float32, generator), chosen, lam, mode, scope)


def test_same_bits_twice(dtype, backend, generator):
    grads_f, grads_r = make_grads([(20_001,), (64, 3)], dtype, generator)
    first, second = (kernels.project_orthogonal(grads_f, grads_r, backend=backend) for _ in range(2))
    for x, y in zip(first, second, strict=True):
        assert torch.equal(x, y)


def test_tuples_and_gradients_that_require_grad(backend, generator):
    grads_f, grads_r = make_grads([(6,)], torch.float32, generator)
    (result,) = kernels.project_orthogonal((grads_f[0].requires_grad_(),), tuple(grads_r), backend=backend)
    assert not result.requires_grad


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_are_not_copied_into_one_vector(stored, backend, generator, largest_tensor):
    grads_f, grads_r = make_grads([(40_000,), (35_000,)], stored, generator)
    with largest_tensor() as largest:
        kernels.project_orthogonal(grads_f, grads_r, backend=backend)
    assert largest.nbytes <= max(40_000 * stored.itemsize, chunked.PIECE * 4)
    with largest_tensor() as largest:
        kernels.project_orthogonal(grads_f, grads_r, backend="reference")
    assert largest.nbytes == 40_000 * 8, "the recorder must see what the definition holds"


def good():
    return [torch.ones(2, 3), torch.ones(4)]


def with_value(value):
    grads = good()
    grads[1][2] = value
    return grads


BAD_INPUTS = {
    "not a list": (torch.ones(2), good(), {}, "grads_f: got Tensor, want a list"),
    "not tensors": (good(), [torch.ones(2, 3), None], {}, r"grads_r\[1\]: got NoneType, want a tensor"),
    "integers": (good(), [torch.ones(2, 3), torch.ones(4).long()], {}, r"grads_r\[1\]: got dtype torch.int64"),
    "lengths": (good(), good()[:1], {}, "grads_r: got 1 tensors, want as many as grads_f, 2"),
    "shapes": (good(), [torch.ones(3, 2), torch.ones(4)], {}, r"grads_r\[0\]: got shape \[3, 2\], want .* \[2, 3\]"),
    "dtypes": (good(), [torch.ones(2, 3), torch.ones(4).half()], {}, r"grads_r\[1\]: got dtype torch.float16"),
    "nan": (with_value(math.nan), good(), {}, r"grads_f\[1\]: holds NaN"),
    "infinity": (good(), with_value(-math.inf), {}, r"grads_r\[1\]: holds NaN"),
    "weight": (good(), good(), {"lam": math.nan}, "lam: got nan, want a finite number"),
    "tensor weight": (good(), good(), {"lam": "1"}, "lam: got '1', want a finite number"),
    "mode": (good(), good(), {"mode": "never"}, "mode: got 'never', want one of 'always', 'conflict'"),
    "scope": (good(), good(), {"scope": "row"}, "scope: got 'row', want one of 'model', 'layer'"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
@pytest.mark.parametrize("chosen", [None, "reference", "triton"])
def test_bad_input_is_named(case, chosen):
    grads_f, grads_r, options, message = BAD_INPUTS[case]
    with pytest.raises(ValueError, match=message):
        kernels.project_orthogonal(grads_f, grads_r, backend=chosen, **options)


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend: got 'cuda', want None or one of 'reference', 'triton'"):
        kernels.project_orthogonal(good(), good(), backend="cuda")


def test_interpreted_triton_is_refused_on_cuda(monkeypatch):
    monkeypatch.setattr(_dispatch, "triton_mode", lambda: ("interpreted", ""))
    with pytest.raises(kernels.BackendUnavailableError, match=r"tensors are on cuda, and TRITON_INTERPRET=1"):
        _multi_tensor.refuse_interpreted_cuda(torch.device("cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize("scope", ["model", "layer"])
def test_compiled(scope, dtype, cuda, generator):
    grads_f, grads_r = make_grads([*SHAPES, (1_000_003,)], dtype, generator)
    options = {"scope": scope, "return_products": True}
    result, products = kernels.project_orthogonal(
        [f.to(cuda) for f in grads_f], [r.to(cuda) for r in grads_r], **options
    )
    assert kernels.last_backend() == "project_orthogonal: triton"
    exact, exact_products = reference.project(
        [f.double() for f in grads_f], [r.double() for r in grads_r], 1.0, "always", scope
    )
    scales = reference.error_scale(grads_f, grads_r, 1.0, "always", scope)
    for value, right, scale in zip(result, exact, scales, strict=True):
        assert ((value.double().cpu() - right).abs() <= admitted_error(dtype, 2, scale)).all()
    torch.testing.assert_close(products.cpu(), exact_products, rtol=1e-9, atol=1e-9)
