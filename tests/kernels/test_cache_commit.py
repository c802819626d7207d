"""kernels.cache_commit against its definition, bit by bit, on every backend."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest import kernels
from palimpsest.kernels import tree_attention
from palimpsest.kernels.tolerances import admitted_error
from palimpsest.kernels.tree_attention import reference as attention

pytestmark = pytest.mark.pairwise

BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
PATHS = [[0, 1, 2], [0, 2, 3], [1, 2, 3, 4, 5, 6], [0, 1, 4, 5, 8], [8], []]


def make_caches(shapes, dtype, generator):
    """Keys and values of one layer a shape; odd values among them, to be moved bit by bit."""
    odd = torch.tensor([math.nan, -0.0, math.inf, 6e-8])
    layers = [torch.randn(2, *shape, generator=generator) for shape in shapes]
    for x in layers:
        x.view(-1)[: len(odd)] = odd
    return [x[0].to(dtype) for x in layers], [x[1].to(dtype) for x in layers]


def same_bits(x, y):
    """Unlike torch.equal: NaN equals the same NaN, and 0 differs from -0."""
    return torch.equal(x.contiguous().view(BITS[x.element_size()]), y.contiguous().view(BITS[y.element_size()]))


def expected(x, paths, lengths):
    """The cache of each request: what was there, then its path, then what was there."""
    rows = []
    for cache, path, length in zip(x, paths, lengths, strict=True):
        order = [*range(length), *(length + place for place in path), *range(length + len(path), cache.shape[1])]
        rows.append(cache[:, order])
    return torch.stack(rows)


def assert_commits(keys, values, accepted, prefix_len, backend, paths=None):
    """Every bit of every tensor, and the new length; `paths` where they differ from `accepted`."""
    batch = len(keys[0])
    paths = [list(accepted)] * batch if paths is None else paths
    lengths = [prefix_len] * batch if isinstance(prefix_len, int) else prefix_len.tolist()
    want = [expected(x, paths, lengths) for x in (*keys, *values)]
    length = kernels.cache_commit(keys, values, accepted, prefix_len, backend=backend)
    for x, y in zip((*keys, *values), want, strict=True):
        assert same_bits(x, y)
    if isinstance(length, int):
        assert [length] * batch == [n + len(path) for n, path in zip(lengths, paths, strict=True)]
    else:
        assert length.dtype == torch.int64
        assert length.tolist() == [n + len(path) for n, path in zip(lengths, paths, strict=True)]
    return length


@pytest.mark.parametrize("chosen", [None, "reference", "triton"])
@pytest.mark.parametrize("path", PATHS, ids=str)
def test_one_path_for_all(path, chosen, generator):
    caches = make_caches([(2, 3, 20, 5)] * 2, torch.float32, generator)
    assert type(assert_commits(*caches, path, 11, chosen)) is int
    assert_commits(*caches, torch.tensor(path, dtype=torch.int32), 0, chosen)


@pytest.mark.parametrize("chosen", [None, "reference", "triton"])
def test_keys_and_values_may_differ_in_width(chosen, generator):
    keys, _ = make_caches([(2, 3, 20, 5), (2, 3, 20, 7)], torch.float32, generator)
    _, values = make_caches([(2, 3, 20, 7), (2, 3, 20, 7)], torch.float32, generator)
    assert_commits(keys, values, [0, 2, 5], 11, chosen)
    assert_commits(keys, values, torch.tensor([[0, 2], [1, -1]]), torch.tensor([3, 8]), chosen, [[0, 2], [1]])


def test_dtypes(dtype, backend, generator):
    assert_commits(*make_caches([(2, 2, 20, 7)], dtype, generator), [1, 2, 5], 10, backend)


@pytest.mark.parametrize("chosen", [None, "reference", "triton"])
@pytest.mark.parametrize("kind", [torch.int32, torch.int64], ids=str)
def test_a_path_for_each_request(kind, chosen, generator):
    """Lengths that differ and that agree; nothing, everything, and the last row of the cache."""
    paths = [[], [0, 1, 2, 3], [1, 4], [0, 2, 6], [2, 3, 5, 6]]
    accepted = torch.tensor([path + [-1] * (4 - len(path)) for path in paths], dtype=kind)
    caches = make_caches([(5, 2, 17, 3)] * 2, torch.float32, generator)
    assert_commits(*caches, accepted, 9, chosen, paths)
    caches = make_caches([(5, 2, 17, 3)] * 2, torch.float32, generator)
    assert_commits(*caches, accepted, torch.tensor([16, 0, 5, 8, 10], dtype=kind), chosen, paths)


def test_a_length_for_each_request_and_one_path(backend, generator):
    caches = make_caches([(3, 2, 17, 3)] * 2, torch.float32, generator)
    assert_commits(*caches, [1, 3], torch.tensor([0, 13, 5]), backend)


def test_layers_that_differ(backend, generator):
    """In heads, rows, width and dtype, as hybrid models have them; heads that several programs share."""
    keys, values = make_caches(
        [(1, 2, 20, 5), (1, 3, 16, 5), (1, 1, 30, 64), (1, 3, 16, 5)], torch.float32, generator
    )
    half = make_caches([(1, 2, 20, 5), (1, 9, 16, 1024)], torch.bfloat16, generator)
    assert_commits(keys + half[0], values + half[1], [2, 3, 5], 10, backend)


def test_non_contiguous(dtype, backend, generator):
    """[B, S, Hkv, Dh] seen as [B, Hkv, S, Dh], every second column, a part of a larger cache."""
    keys, values = make_caches([(2, 20, 3, 8), (2, 20, 3, 8)], dtype, generator)
    whole = [x.clone() for x in (*keys, *values)]
    views = [[x.transpose(1, 2)[:, :, 2:19, ::2] for x in tensors] for tensors in (keys, values)]
    assert_commits(*views, [0, 3, 4, 6], 10, backend)
    for x, before in zip((*keys, *values), whole, strict=True):
        assert same_bits(x[..., 1::2], before[..., 1::2])
        assert same_bits(x[:, :2], before[:, :2])
        assert same_bits(x[:, 19:], before[:, 19:])


@settings(max_examples=10, deadline=None, derandomize=True, database=None)
@given(data=st.data(), batch=st.integers(1, 3), nodes=st.integers(1, 12), seed=st.integers(0, 2**31))
@pytest.mark.parametrize("chosen", [None, "triton"])
def test_any_paths(chosen, data, batch, nodes, seed):
    one = st.sets(st.integers(0, nodes - 1)).map(sorted)
    paths = data.draw(st.lists(one, min_size=batch, max_size=batch))
    lengths = torch.tensor(data.draw(st.lists(st.integers(0, 9), min_size=batch, max_size=batch)))
    longest = max(map(len, paths))
    accepted = torch.tensor([path + [-1] * (longest - len(path)) for path in paths]).view(batch, longest).long()
    caches = make_caches([(batch, 2, 9 + nodes, 3)], torch.float32, torch.Generator().manual_seed(seed))
    assert_commits(*caches, accepted, lengths, chosen, paths)


@pytest.mark.parametrize("prefix_len", [11, torch.tensor([11, 3])], ids=["one length", "two lengths"])
def test_stores_stay_in_place(prefix_len, stores_in_place, generator):
    keys, values = make_caches([(2, 3, 20, 5)] * 2, torch.float32, generator)
    stores_in_place([*keys, *values])
    kernels.cache_commit(keys, values, [1, 2, 5], prefix_len, backend="triton")


def test_what_would_leave_the_cache_is_skipped(generator):
    """As on CUDA, where the places are not looked at. The cache lies inside a larger tensor, which must stay too."""
    from palimpsest.kernels.cache_commit import triton

    larger = torch.randn(2, 3, 24, 5, generator=generator)
    cache, before = larger[:, :, 2:22], larger.clone()
    triton.move_([cache], torch.tensor([9, 1 << 40]), 11)  # row 20, the first beyond the cache
    assert same_bits(larger, before)
    triton.move_([cache], torch.tensor([2]), torch.tensor([-1, 11]))
    before[1, :, 2 + 11] = before[1, :, 2 + 13]
    assert same_bits(larger, before)


@pytest.mark.parametrize("chosen", [None, "reference", "triton"])
@pytest.mark.parametrize("shape", [(0, 2, 9, 3), (2, 0, 9, 3), (2, 2, 9, 0)], ids=str)
def test_empty(shape, chosen):
    keys, values = [torch.zeros(shape)], [torch.zeros(shape)]
    assert kernels.cache_commit(keys, values, [1, 2], 4, backend=chosen) == 6
    accepted, lengths = torch.tensor([[1, -1]] * shape[0]).view(-1, 2).long(), torch.full(shape[:1], 4)
    length = kernels.cache_commit(keys, values, accepted, lengths, backend=chosen)
    assert length.tolist() == [5] * shape[0]


def test_attention_after_a_commit_is_attention_over_the_path(backend, generator):
    """Two requests accept different paths; the next tree sees their committed rows as its prefix."""
    (keys,), (values,) = make_caches([(2, 2, 24, 4)], torch.float64, generator)
    keys.view(-1)[:4] = values.view(-1)[:4] = 1
    paths, lengths = [[0, 3, 4], [2]], torch.tensor([8, 5])
    text = [
        [torch.cat([x[b, :, :n], x[b, :, [n + place for place in path]]], 1) for x in (keys, values)]
        for b, (path, n) in enumerate(zip(paths, lengths.tolist(), strict=True))
    ]
    accepted = torch.tensor([[0, 3, 4], [2, -1, -1]])
    new = kernels.cache_commit([keys], [values], accepted, lengths, backend=backend)
    q, k, v = torch.randn(3, 2, 2, 2, 4, generator=generator, dtype=torch.float64)
    ancestors = torch.tensor([[True, False], [True, True]])
    for b, n in enumerate(new.tolist()):
        keys[b, :, n : n + 2], values[b, :, n : n + 2] = k[b], v[b]
    out = tree_attention(q, keys, values, ancestors, new, backend=backend)
    for b, (text_k, text_v) in enumerate(text):
        whole = q[b, None], torch.cat([text_k, k[b]], 1)[None], torch.cat([text_v, v[b]], 1)[None]
        rest = ancestors, int(new[b]), 0.5
        admitted = admitted_error(q.dtype, attention.terms(keys), attention.error_scale(*whole, *rest))
        assert ((out[b] - attention.tree_attention(*whole, *rest)).abs() <= 2 * admitted).all()


def test_what_autograd_has_kept_is_known_to_have_changed(backend):
    cache, weight = torch.zeros(1, 1, 4, 1), torch.ones((), requires_grad=True)
    product = (cache * weight).sum()
    kernels.cache_commit([cache], [cache.clone()], [1], 0, backend=backend)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@pytest.mark.parametrize("lengths", [0, torch.tensor([0])], ids=["one length", "a length each"])
@pytest.mark.parametrize("chosen", [None, "reference", "triton"])
def test_leaves_that_require_a_gradient(chosen, lengths):
    """No graph is recorded, so a leaf may be written to."""
    cache = torch.arange(4.0).view(1, 1, 4, 1).requires_grad_()
    kernels.cache_commit([cache], [cache.detach().clone()], [1, 3], lengths, backend=chosen)
    assert cache.flatten().tolist() == [1, 3, 2, 3]
    assert cache.is_leaf


def good(**changed):
    arguments = {
        "keys": [torch.zeros(2, 3, 10, 5) for _ in range(2)],
        "values": [torch.zeros(2, 3, 10, 5) for _ in range(2)],
        "accepted": [0, 2],
        "prefix_len": 6,
    }
    return arguments | changed


def caches(*shape):
    return {"keys": [torch.zeros(shape)], "values": [torch.zeros(shape)]}


BAD_INPUTS = {
    "not a list": ({"keys": torch.zeros(1, 3, 10, 5)}, "keys: got Tensor, want a list of tensors"),
    "no layers": ({"keys": [], "values": []}, "keys: got an empty list, want one tensor per layer"),
    "integers": ({"values": [torch.zeros(2, 3, 10, 5).long()] * 2}, r"values\[0\]: got dtype torch\.int64"),
    "fewer values": ({"values": [torch.zeros(2, 3, 10, 5)]}, "values: got 1 tensors, want as many as keys, 2"),
    "other shape": ({"values": [torch.zeros(2, 3, 9, 5)] * 2}, r"values\[0\]: got shape \[2, 3, 9, 5\]"),
    "other heads": ({"values": [torch.zeros(2, 2, 10, 4)] * 2}, r"values\[0\]: got shape \[2, 2, 10, 5\]"),
    "other dtype": ({"values": [torch.zeros(2, 3, 10, 5).half()] * 2}, r"values\[0\]: got dtype torch\.float16"),
    "three dimensions": (caches(3, 10, 5), r"keys\[0\]: got shape \[3, 10, 5\], want \[B, Hkv, S, Dh\]"),
    "other batch": (
        {name: [torch.zeros(2, 3, 10, 5), torch.zeros(1, 3, 10, 5)] for name in ("keys", "values")},
        r"keys\[1\]: got shape \[1, 3, 10, 5\], want .* B = 2",
    ),
    "expanded": (
        {"values": [torch.zeros(1, 3, 10, 5).expand(2, -1, -1, -1)] * 2},
        r"values\[0\]: got an expanded tensor",
    ),
    "path": ({"accepted": 3}, "accepted: got 3, want a list of integers"),
    "fractions": ({"accepted": [0.0, 2.0]}, r"accepted: got \[0\.0, 2\.0\], want a list of integers"),
    "truth": ({"accepted": [True]}, r"accepted: got \[True\], want a list of integers"),
    "float path": ({"accepted": torch.ones(2)}, r"accepted: got torch\.float32, want .* int32 or int64"),
    "device": (
        {"accepted": torch.ones(2, device="meta").long()},
        "accepted: got device meta, want that of keys",
    ),
    "paths": (
        {"accepted": torch.zeros(3, 1).long()},
        r"accepted: got shape \[3, 1\], want \[n\] or \[B, n\] with B = 2",
    ),
    "scalar": ({"accepted": torch.tensor(0)}, r"accepted: got shape \[\], want \[n\] or"),
    "falling": ({"accepted": [2, 1]}, r"accepted: got \[2, 1\], want places from 0 that increase strictly"),
    "equal": ({"accepted": [0, 1, 1]}, r"accepted: got \[0, 1, 1\], want places from 0"),
    "negative": ({"accepted": [-1, 0]}, r"accepted: got \[-1, 0\], want places from 0"),
    "padding": ({"accepted": [0, -1]}, r"accepted: got \[0, -1\], want places from 0"),
    "hole": ({"accepted": torch.tensor([[0, 1], [-1, 1]])}, "and -1 only after a request's last"),
    "minus two": ({"accepted": torch.tensor([[0, 1], [0, -2]])}, "and -1 only after a request's last"),
    "equal in one": ({"accepted": torch.tensor([[0, 1], [2, 2]])}, "want places from 0 that increase strictly"),
    "beyond": ({"accepted": [0, 4]}, "accepted: reaches row 10 of the caches, want below the smallest S, 10"),
    "beyond in a layer": (
        {name: [torch.zeros(2, 3, 20, 5), torch.zeros(2, 3, 10, 5)] for name in ("keys", "values")}
        | {"accepted": [0, 4]},
        "accepted: reaches row 10 of the caches, want below the smallest S, 10",
    ),
    "beyond in one": ({"prefix_len": torch.tensor([0, 8])}, "accepted: reaches row 10 of the caches"),
    "beyond in one path": ({"accepted": torch.tensor([[0, 1], [4, -1]])}, "accepted: reaches row 10"),
    "prefix": ({"prefix_len": -1}, "prefix_len: got -1, want 0 or more"),
    "true prefix": ({"prefix_len": True}, "prefix_len: got True, want an integer from 0"),
    "fraction": ({"prefix_len": 6.0}, r"prefix_len: got 6\.0, want an integer from 0 or a tensor \[B\]"),
    "lengths": ({"prefix_len": torch.tensor([6])}, r"prefix_len: got shape \[1\], want \[B\] = \[2\]"),
    "negative length": ({"prefix_len": torch.tensor([6, -1])}, "prefix_len: got -1, want 0 or more"),
    "backend": ({"backend": "cuda"}, "backend: got 'cuda', want None or one of 'reference', 'triton'"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
@pytest.mark.parametrize("chosen", [None, "reference", "triton"])
def test_bad_input_is_named_and_nothing_is_moved(case, chosen, generator):
    changed, message = BAD_INPUTS[case]
    arguments = {"backend": chosen} | good(**changed)
    written = [
        x for name in ("keys", "values") for x in arguments[name] if x.dtype.is_floating_point and x._base is None
    ]
    for x in written:
        x.copy_(torch.randn(x.shape, generator=generator))
    before = [x.clone() for x in written]
    with pytest.raises(ValueError, match=message):
        kernels.cache_commit(**arguments)
    for x, y in zip(written, before, strict=True):
        assert torch.equal(x, y)


@pytest.mark.gpu
@pytest.mark.parametrize("placed", ["cpu", "cuda"])
def test_compiled(placed, dtype, cuda, generator):
    keys, values = (
        [x.to(cuda) for x in tensors] for tensors in make_caches([(2, 8, 300, 128)] * 30, dtype, generator)
    )
    assert_commits(keys, values, [0, 2, 3, 7, 8], 290, None)
    accepted, lengths = torch.tensor([[1, 2, 5], [0, 4, -1]]), torch.tensor([200, 11])
    length = assert_commits(keys, values, accepted.to(placed), lengths.to(placed), None, [[1, 2, 5], [0, 4]])
    assert length.device == keys[0].device
    assert kernels.last_backend() == "cache_commit: triton"


@pytest.mark.gpu
def test_compiled_skips_what_would_leave_the_cache(cuda, generator):
    keys, values = (
        [x.to(cuda) for x in tensors] for tensors in make_caches([(1, 2, 20, 8)], torch.float32, generator)
    )
    before = keys[0].clone()
    kernels.cache_commit(keys, values, torch.tensor([12, 1 << 40], device=cuda), 10)
    assert same_bits(keys[0], before)
