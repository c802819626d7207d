"""kernels.tree_attention against its float64 definition, on every backend."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest import kernels
from palimpsest.kernels.tolerances import admitted_error
from palimpsest.kernels.tree_attention import reference

pytestmark = pytest.mark.pairwise


def make_tree(nodes, generator, batch=()):
    """Ancestor matrices of random trees whose nodes are shuffled, so that no order is relied on."""
    trees = []
    for _ in range(math.prod(batch)):
        sees = torch.eye(nodes, dtype=torch.bool)
        for i in range(1, nodes):
            parent = int(torch.randint(-1, i, (), generator=generator))
            if parent >= 0:
                sees[i] |= sees[parent]
        order = torch.randperm(nodes, generator=generator)
        trees.append(sees[order][:, order])
    return torch.stack(trees).view(*batch, nodes, nodes)


def make_inputs(shape, dtype, generator, size=2.0):
    batch, heads, kv_heads, nodes, prefix_len, width = shape
    q = torch.randn(batch, heads, nodes, width, generator=generator) * size
    k, v = torch.randn(2, batch, kv_heads, prefix_len + nodes, width, generator=generator)
    return q.to(dtype), k.to(dtype), v.to(dtype), make_tree(nodes, generator), prefix_len


def assert_agrees(q, k, v, ancestors, prefix_len, backend, scale=None):
    """Within the error model of the float64 definition."""
    value = kernels.tree_attention(q, k, v, ancestors, prefix_len, scale, backend=backend)
    assert (value.shape, value.dtype) == (q.shape, q.dtype)
    rest = ancestors, prefix_len, q.shape[-1] ** -0.5 if scale is None else scale
    exact = reference.tree_attention(q.double(), k.double(), v.double(), *rest)
    admitted = admitted_error(q.dtype, reference.terms(k), reference.error_scale(q, k, v, *rest))
    assert ((value.double() - exact).abs() <= admitted).all()
    return value


SHAPES = [(1, 2, 1, 8, 16, 16), (2, 6, 2, 5, 37, 24), (1, 3, 3, 33, 0, 16), (1, 1, 1, 1, 0, 1), (1, 4, 1, 1, 61, 7)]


@pytest.mark.parametrize("shape", [*SHAPES, (1, 2, 2, 70, 601, 5)], ids=str)
def test_agrees_with_float64(shape, dtype, backend, generator):
    assert_agrees(*make_inputs(shape, dtype, generator), backend)


def test_many_queries_in_several_blocks(backend, generator):
    assert_agrees(*make_inputs((1, 10, 2, 67, 300, 20), torch.float32, generator), backend)


@pytest.mark.parametrize("prefix_len", [255, 256, 257, 512, 513])
def test_around_the_parts_of_the_prefix(prefix_len, backend, generator):
    assert_agrees(*make_inputs((1, 2, 1, 3, prefix_len, 4), torch.float32, generator), backend)


@pytest.mark.parametrize("target", [1, 4, 256], ids=["one part", "two parts", "as many as there are"])
def test_any_number_of_parts(target, generator, monkeypatch):
    from palimpsest.kernels.tree_attention import triton

    monkeypatch.setattr(triton, "SPLIT_TARGET", target)
    assert_agrees(*make_inputs((1, 2, 2, 6, 1030, 4), torch.float32, generator), "triton")


@pytest.mark.parametrize("nodes", [1, 31, 32, 33, 64, 65])
def test_every_bit_of_a_word(nodes, backend, generator):
    """Zero queries over single-node trees and their complements: each result is a mean of known values."""
    shape = 1, 1, nodes, 3
    v = torch.randn(shape, generator=generator, dtype=torch.float64)
    itself = torch.eye(nodes, dtype=torch.bool)
    value = kernels.tree_attention(torch.zeros_like(v), torch.ones_like(v), v, itself, 0, backend=backend)
    assert ((value - v).abs() <= admitted_error(v.dtype, nodes + 40, v.abs())).all()
    next_missing = ~itself.roll(1, 1) | itself
    means = torch.stack([v[0, 0, row].mean(0) for row in next_missing])
    value = kernels.tree_attention(torch.zeros_like(v), torch.ones_like(v), v, next_missing, 0, backend=backend)
    assert ((value - means).abs() <= admitted_error(v.dtype, nodes + 40, v.abs().amax())).all()


@pytest.mark.parametrize("nodes", [1, 31, 32, 33, 100])
def test_packed_bits(nodes, generator):
    from palimpsest.kernels.tree_attention import triton

    trees = torch.rand(2, nodes, nodes, generator=generator) < 0.5
    words = triton.pack(trees)
    assert words.dtype == torch.int32
    assert words.shape == (2, nodes, -(-nodes // 32))
    for j in range(nodes):
        assert torch.equal((words[:, :, j // 32] >> (j % 32) & 1) != 0, trees[:, :, j])


def test_a_node_attends_as_if_its_path_were_the_text(dtype, backend, generator):
    """Tree attention of a node = plain attention of the last token of prefix + path, path by path."""
    q, k, v, ancestors, prefix_len = make_inputs((1, 4, 2, 9, 21, 8), dtype, generator)
    value = assert_agrees(q, k, v, ancestors, prefix_len, backend).double()
    admitted = admitted_error(
        dtype, reference.terms(k), reference.error_scale(q, k, v, ancestors, prefix_len, 8**-0.5)
    )
    for i in range(9):
        rows = [*range(prefix_len), *(prefix_len + j for j in range(9) if ancestors[i, j])]
        for head in range(4):
            keys, values = (x[0, head // 2, rows].double() for x in (k, v))
            alone = (keys @ q[0, head, i].double() / math.sqrt(8)).softmax(0) @ values
            assert ((value[0, head, i] - alone).abs() <= admitted[0, head, i]).all()


def test_by_hand(dtype, backend):
    """Scores ln 3 (prefix), ln 4 and 0 at scale 2; node 1 is no ancestor of 0, and sees 0 and itself."""
    q = torch.ones(1, 1, 2, 1, dtype=torch.float64)
    k = torch.tensor([math.log(3) / 2, math.log(4) / 2, 0.0], dtype=torch.float64).view(1, 1, 3, 1)
    v = torch.tensor([1.0, 8.0, -16.0]).view(1, 1, 3, 1).to(dtype)
    ancestors = torch.tensor([[True, False], [True, True]])
    inputs = q.to(dtype), k.to(dtype), v, ancestors, 1, 2.0
    value = kernels.tree_attention(*inputs, backend=backend).double().flatten()
    exact = torch.tensor([(3 + 32) / 7, (3 + 32 - 16) / 8], dtype=torch.float64)
    rounded_k = torch.finfo(dtype).eps * 2 * 16 if dtype != torch.float64 else 0  # scores move by less than eps
    admitted = admitted_error(dtype, 44, reference.error_scale(*inputs)).flatten()
    assert ((value - exact).abs() <= admitted + rounded_k).all()


def test_a_tree_for_each_request(dtype, backend, generator):
    q, k, v, _, prefix_len = make_inputs((2, 2, 1, 35, 12, 8), dtype, generator)
    assert_agrees(q, k, v, make_tree(35, generator, (2,)), prefix_len, backend)
    assert_agrees(q, k, v, make_tree(35, generator)[None].expand(2, -1, -1), prefix_len, backend)


@pytest.mark.parametrize(("trees", "kind"), [((), torch.int32), ((3,), torch.int64)], ids=["one tree", "a tree each"])
def test_a_length_for_each_request(trees, kind, dtype, backend, generator):
    """As the requests alone; what lies after a tree counts for nothing, however large."""
    lengths = [0, 261, 288]
    q, k, v, _, _ = make_inputs((3, 2, 1, 6, 290, 8), dtype, generator)
    ancestors = make_tree(6, generator, trees)
    for i, n in enumerate(lengths):
        k[i, :, n + 6 :] = 50
        v[i, :, n + 6 :] = 1e4
    value = assert_agrees(q, k, v, ancestors, torch.tensor(lengths, dtype=kind), backend)
    for i, n in enumerate(lengths):
        one = [x[i : i + 1] for x in (q, k[:, :, : n + 6], v[:, :, : n + 6])]
        tree = ancestors[i] if trees else ancestors
        exact = reference.tree_attention(*(x.double() for x in one), tree, n, 8**-0.5)
        size = reference.error_scale(*one, tree, n, 8**-0.5)
        assert ((value[i].double() - exact[0]).abs() <= admitted_error(dtype, reference.terms(k), size[0])).all()


def test_a_length_for_each_request_of_one_token(backend, generator):
    q, k, v, ancestors, _ = make_inputs((2, 2, 1, 1, 9, 4), torch.float32, generator)
    assert_agrees(q, k, v, ancestors, torch.tensor([3, 9]), backend)


@pytest.mark.parametrize(("name", "number"), [("q", -math.inf), ("k", -math.inf), ("q", -1e38)])
def test_scores_that_are_all_minus_infinity_are_refused(name, number):
    """A softmax of them has no value; torch's attention gives zeros."""
    given = {"q": torch.ones(1, 1, 1, 2), "k": torch.full((1, 1, 3, 2), 1e3), "v": torch.ones(1, 1, 3, 2)}
    given[name] = torch.full_like(given[name], number)
    message = "q: its products with k overflow" if math.isfinite(number) else f"{name}: got NaN or infinity"
    with pytest.raises(ValueError, match=message):
        kernels.tree_attention(**given, ancestors=torch.ones(1, 1).bool(), prefix_len=2)


def test_a_result_of_zeros_is_one_where_the_values_are():
    q, k, v = torch.ones(1, 1, 1, 2), torch.ones(1, 1, 3, 2), torch.zeros(1, 1, 3, 2)
    assert torch.equal(kernels.tree_attention(q, k, v, torch.ones(1, 1).bool(), 2), torch.zeros(1, 1, 1, 2))


def test_a_sum_of_results_that_overflows_is_no_infinity(backend):
    """Each result is finite."""
    v = torch.full((1, 1, 2, 64), torch.finfo(torch.float32).max / 2)
    value = kernels.tree_attention(torch.zeros_like(v), v * 0, v, torch.eye(2, dtype=torch.bool), 0, backend=backend)
    assert torch.equal(value, v)


@pytest.mark.parametrize("scale", [0, 1.0, -0.7, 0.1], ids=str)
def test_scale(scale, backend, generator):
    """0.1 is not representable: in float64 a scale rounded to float32 would show."""
    assert_agrees(*make_inputs((1, 2, 1, 5, 20, 8), torch.float64, generator), backend, scale)


@pytest.mark.parametrize("prefix_len", [0, 40])
def test_extreme_scores(prefix_len, dtype, backend, generator):
    """One-hot by +-1e4: maxima in the prefix and in the tree, at the start and the end."""
    q, k, v, ancestors, _ = make_inputs((1, 4, 1, 12, prefix_len, 3), dtype, generator)
    q[:] = torch.tensor([100.0, 0, 0])
    k[:, :, :, 0] = torch.linspace(-100, 100, prefix_len + 12)
    for keys in (k, k.flip(2)):
        assert_agrees(q, keys, v, ancestors, prefix_len, backend, 1.0)


def test_equal_scores(dtype, backend, generator):
    q, k, v, ancestors, prefix_len = make_inputs((1, 2, 1, 7, 300, 4), dtype, generator)
    assert_agrees(torch.zeros_like(q), k, v, ancestors, prefix_len, backend)


def test_whole_tiles_unseen(backend, generator):
    """Queries whose first keys come late, or early only."""
    nodes = 100 if backend == "triton" else 1200
    q, k, v, _, _ = make_inputs((1, 1, 1, nodes, 0, 4), torch.float32, generator)
    assert_agrees(q, k, v, torch.eye(nodes, dtype=torch.bool), 0, backend)


def test_non_contiguous(dtype, backend, generator):
    """[B, T, H, Dh] as models hold it, every second column, and transposed masks."""
    q, k, v, ancestors, prefix_len = make_inputs((2, 4, 2, 9, 30, 16), dtype, generator)
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2)[..., ::2] for x in (q, k, v))
    assert_agrees(q, k, v, ancestors.t(), prefix_len, backend)
    q, k, v = (x.transpose(2, 3).contiguous().transpose(2, 3) for x in (q, k, v))
    assert_agrees(q, k, v, ancestors, torch.tensor([[30, 0], [7, 0]])[:, 0], backend)


@pytest.mark.parametrize("chosen", [None, "reference", "triton"])
@pytest.mark.parametrize("shape", [(0, 2, 1, 3, 5, 4), (2, 2, 1, 0, 5, 4), (2, 2, 1, 0, 0, 4)], ids=str)
def test_empty(shape, chosen, dtype, generator):
    batch, _, _, nodes, prefix_len, _ = shape
    q, k, v, _, _ = make_inputs(shape, dtype, generator)
    ancestors = torch.ones(nodes, nodes, dtype=torch.bool)
    for length in (prefix_len, torch.full((batch,), prefix_len)):
        value = kernels.tree_attention(q, k, v, ancestors, length, backend=chosen)
        assert (value.shape, value.dtype) == (q.shape, dtype)


@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(
    batch=st.integers(1, 3),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 4),
    nodes=st.integers(1, 70),
    prefix_len=st.integers(0, 300),
    width=st.integers(1, 40),
    seed=st.integers(0, 2**31),
)
@pytest.mark.parametrize("chosen", [None, "triton"])
def test_any_shape(chosen, batch, kv_heads, group, nodes, prefix_len, width, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = batch, kv_heads * group, kv_heads, nodes, prefix_len, width
    assert_agrees(*make_inputs(shape, torch.float32, generator), chosen)


def test_same_bits_twice(dtype, backend, generator):
    inputs = make_inputs((1, 4, 2, 11, 300, 8), dtype, generator)
    assert torch.equal(*(kernels.tree_attention(*inputs, backend=backend) for _ in range(2)))


def test_stores_stay_in_place(stores_in_place, generator, monkeypatch):
    from palimpsest.kernels.tree_attention import triton

    monkeypatch.setattr(triton, "_blocks", lambda *_: (32, 128, 4, 1))
    monkeypatch.setattr(triton, "JOINED", 2048)
    kernels.tree_attention(*make_inputs((2, 2, 1, 35, 300, 21), torch.float32, generator), backend="triton")


def test_the_reference_is_differentiable(generator):
    q, k, v, ancestors, prefix_len = make_inputs((1, 4, 2, 3, 4, 2), torch.float64, generator, 1.0)
    inputs = tuple(x.requires_grad_() for x in (q, k, v))
    assert torch.autograd.gradcheck(
        lambda *x: kernels.tree_attention(*x, ancestors, prefix_len, backend="reference"), inputs, fast_mode=True
    )


@pytest.mark.parametrize("which", [0, 1, 2], ids=["q", "k", "v"])
def test_a_gradient_is_refused_not_dropped(which, backend, generator):
    inputs = make_inputs((1, 2, 1, 3, 4, 2), torch.float32, generator)
    inputs[which].requires_grad_()
    with pytest.raises(ValueError, match="requires a gradient, which only backend='reference' gives"):
        kernels.tree_attention(*inputs, backend=backend)
    with torch.no_grad():
        assert_agrees(*inputs, backend)


def test_neither_scores_nor_repeated_keys_are_held(backend, generator, largest_tensor):
    heads, nodes, width, keys = 8, 16, 32, 1016
    q, *rest = make_inputs((1, heads, 2, nodes, keys - nodes, width), torch.float32, generator)
    inputs = q.transpose(2, 3).contiguous().transpose(2, 3), *rest
    with largest_tensor(*inputs[:3]) as largest:
        kernels.tree_attention(*inputs, backend=backend)
    parts, mask = 5 * heads * nodes * width * 4, nodes * keys * 4
    assert largest.nbytes <= (parts if backend == "triton" else mask)
    with largest_tensor(*inputs[:3]) as largest:
        kernels.tree_attention(*inputs, backend="reference")
    assert largest.nbytes == heads * keys * max(nodes, width) * 4, "the recorder must see what is repeated"


def good(**changed):
    arguments = {
        "q": torch.zeros(2, 4, 3, 5),
        "k": torch.zeros(2, 2, 10, 5),
        "v": torch.zeros(2, 2, 10, 5),
        "ancestors": torch.eye(3, dtype=torch.bool),
        "prefix_len": 7,
    }
    return arguments | changed


def with_nan(*shape):
    value = torch.zeros(shape)
    value[0, 0, 0, 0] = math.nan
    return value


BAD_INPUTS = {
    "not a tensor": ({"q": [1.0]}, "q: got list, want a tensor"),
    "integers": ({"k": torch.zeros(2, 2, 10, 5, dtype=torch.int64)}, r"k: got dtype torch\.int64"),
    "three dimensions": ({"q": torch.zeros(4, 3, 5)}, r"q: got shape \[4, 3, 5\], want \[B, H, T, Dh\]"),
    "other dtype": ({"v": torch.zeros(2, 2, 10, 5).half()}, r"v: got dtype torch\.float16, want that of q"),
    "other device": ({"k": torch.zeros(2, 2, 10, 5, device="meta")}, "k: got device meta, want that of q, cpu"),
    "other batch": ({"k": torch.zeros(1, 2, 10, 5)}, r"k: got shape \[1, 2, 10, 5\], want .* B = 2 and Dh = 5"),
    "other width": ({"k": torch.zeros(2, 2, 10, 6)}, r"k: got shape \[2, 2, 10, 6\], want .* B = 2 and Dh = 5"),
    "no columns": ({"q": torch.zeros(2, 4, 3, 0), "k": torch.zeros(2, 2, 10, 0)}, "Dh at least 1"),
    "heads": ({"q": torch.zeros(2, 5, 3, 5)}, "q: got H = 5, want a multiple of k's Hkv, 2"),
    "no heads": ({"k": torch.zeros(2, 0, 10, 5)}, "q: got H = 4, want a multiple of k's Hkv, 0"),
    "values": ({"v": torch.zeros(2, 2, 9, 5)}, r"v: got shape \[2, 2, 9, 5\], want that of k, \[2, 2, 10, 5\]"),
    "mask dtype": ({"ancestors": torch.eye(3)}, r"ancestors: got torch\.float32, want a bool tensor"),
    "mask list": ({"ancestors": [[True]]}, "ancestors: got list, want a bool tensor"),
    "mask shape": ({"ancestors": torch.eye(4, dtype=torch.bool)}, r"ancestors: got shape \[4, 4\], want \[T, T\]"),
    "masks": ({"ancestors": torch.ones(3, 3, 3, dtype=torch.bool)}, r"or \[B, T, T\] = \[2, 3, 3\]"),
    "blind": ({"ancestors": torch.ones(3, 3).triu(1).bool()}, r"got False at diagonal place \[0\], want True"),
    "one blind": (
        {"ancestors": torch.stack([torch.ones(3, 3), torch.ones(3, 3).tril(1) - torch.diag(torch.eye(3)[2])]).bool()},
        r"ancestors: got False at diagonal place \[1, 2\]",
    ),
    "prefix": ({"prefix_len": 6}, r"k: got S = 10, want prefix_len \+ T = 6 \+ 3 = 9"),
    "longer prefix": ({"prefix_len": 8}, r"k: got S = 10, want prefix_len \+ T = 8 \+ 3 = 11"),
    "negative prefix": ({"prefix_len": -1}, "prefix_len: got -1, want an integer from 0"),
    "fractional prefix": ({"prefix_len": 7.0}, r"prefix_len: got 7\.0, want an integer from 0"),
    "true prefix": ({"prefix_len": True}, "prefix_len: got True, want an integer from 0"),
    "lengths": ({"prefix_len": torch.tensor([7])}, r"prefix_len: got torch\.int64 \[1\], want .* \[B\] = \[2\]"),
    "float lengths": ({"prefix_len": torch.tensor([7.0, 7])}, r"prefix_len: got torch\.float32 \[2\]"),
    "length": ({"prefix_len": torch.tensor([7, 8])}, r"prefix_len: got 8, want 0 \.\.\. S - T = 7"),
    "negative length": ({"prefix_len": torch.tensor([7, -1])}, r"prefix_len: got -1, want 0 \.\.\. S - T = 7"),
    "short keys": (
        {"k": torch.zeros(2, 2, 2, 5), "v": torch.zeros(2, 2, 2, 5), "prefix_len": torch.tensor([0, 0])},
        "k: got S = 2, want at least T = 3",
    ),
    "scale": ({"scale": math.inf}, "scale: got inf, want a finite number or None"),
    "scale tensor": ({"scale": torch.ones(2)}, "scale: got tensor.*, want a finite number or None"),
    "nan in q": ({"q": with_nan(2, 4, 3, 5)}, "q: got NaN or infinity"),
    "nan in k": ({"k": with_nan(2, 2, 10, 5)}, "k: got NaN or infinity"),
    "nan in v": ({"v": with_nan(2, 2, 10, 5)}, "v: got NaN or infinity"),
    "overflow": (
        {"q": torch.full((2, 4, 3, 5), 1e30), "k": torch.full((2, 2, 10, 5), 1e30)},
        "q: its products with k overflow",
    ),
    "backend": ({"backend": "cuda"}, "backend: got 'cuda', want None or one of 'reference', 'triton'"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
@pytest.mark.parametrize("chosen", [None, "reference", "triton"])
def test_bad_input_is_named(case, chosen):
    changed, message = BAD_INPUTS[case]
    with pytest.raises(ValueError, match=message):
        kernels.tree_attention(**({"backend": chosen} | good(**changed)))


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [*SHAPES, (1, 8, 2, 70, 3001, 80), (2, 16, 2, 64, 300, 128)], ids=str)
def test_compiled(shape, dtype, cuda, generator):
    q, k, v, ancestors, prefix_len = make_inputs(shape, dtype, generator)
    on_cuda = [x.to(cuda) for x in (q, k, v, ancestors)]
    first, second = (assert_agrees(*on_cuda, prefix_len, None) for _ in range(2))
    assert torch.equal(first, second)
    assert kernels.last_backend() == "tree_attention: triton"
    assert_agrees(*on_cuda, torch.full((shape[0],), prefix_len, device=cuda), None)
