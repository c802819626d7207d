"""kernels.masked_adamw_ against its float64 definition, on every backend."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest import kernels
from palimpsest.kernels.masked_adamw_ import chunked, reference
from palimpsest.kernels.tolerances import admitted_error

pytestmark = pytest.mark.pairwise

SHAPES = [(16, 32), (), (101,), (0, 4), (3, 5, 2, 2)]
NUMBERS = {"step": 3, "lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def make_state(shapes, dtype, generator, moment=None):
    """[params, grads, exp_avg, exp_avg_sq], masks that keep two thirds, and scales in the moments' dtype."""
    moment = moment or dtype
    params, grads, exp_avg, roots, scales = (
        [torch.randn(shape, generator=generator) for shape in shapes] for _ in range(5)
    )
    masks = [torch.rand(shape, generator=generator) < 2 / 3 for shape in shapes]
    exp_avg_sq = [x.square().to(moment) for x in roots]
    state = [[x.to(dtype) for x in params], [x.to(dtype) for x in grads], [x.to(moment) for x in exp_avg], exp_avg_sq]
    return state, masks, [x.abs().to(moment) for x in scales]


def same_bits(x, y):
    """Unlike torch.equal: NaN equals the same NaN, and 0 differs from -0."""
    kind = BITS[x.element_size()]
    return torch.equal(x.contiguous().view(kind), y.contiguous().view(kind))


def assert_agrees(state, masks, scales, backend, pack=False, **changed):
    """Survivors within the error model of the float64 definition, everything else with the same bits."""
    numbers = NUMBERS | changed
    before = [[x.clone() for x in tensors] for tensors in state]
    given_masks = [kernels.pack_mask(mask) for mask in masks] if pack else masks
    assert kernels.masked_adamw_(*state, given_masks, scales, **numbers, backend=backend) is None
    for i, mask in enumerate(masks):
        inputs = [tensors[i] for tensors in before] + [
            torch.ones((), dtype=torch.float64) if scales is None else scales[i].double()
        ]
        exact = reference.adamw(*inputs, *numbers.values())
        sizes = reference.error_scale(*inputs, *numbers.values())
        for which, new, size in zip((0, 2, 3), exact, sizes, strict=True):
            old, value = before[which][i], state[which][i]
            admitted = admitted_error(value.dtype, 4, size)
            assert ((value.double() - new).abs() <= admitted)[mask].all()
            assert same_bits(value[~mask], old[~mask])
        assert same_bits(state[1][i], before[1][i])


@pytest.mark.parametrize("pack", [False, True], ids=["bool", "bits"])
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
def test_agrees_with_float64(scaled, pack, dtype, backend, generator):
    state, masks, scales = make_state(SHAPES, dtype, generator)
    assert_agrees(state, masks, scales if scaled else None, backend, pack)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16], ids=str)
def test_float32_moments_of_half_precision(stored, backend, generator):
    assert_agrees(*make_state(SHAPES, stored, generator, torch.float32), backend)


@pytest.mark.parametrize(
    "changed",
    [
        {"step": 1},
        {"step": 100_000},
        {"lr": 0.0},
        {"lr": 1},
        {"betas": (0.0, 0.0)},
        {"betas": [0.3, 0.5]},
        {"eps": 0.1},
        {"weight_decay": 0.0},
        {"weight_decay": 30.0},
    ],
    ids=str,
)
def test_numbers(changed, backend, generator):
    assert_agrees(*make_state([(77,)], torch.float32, generator), backend, **changed)


def test_small_numbers_are_not_rounded_to_float32(backend, generator):
    """In float64 a beta, a rate or an eps rounded to float32 would be 1e8 times the admitted error."""
    assert_agrees(*make_state([(77,)], torch.float64, generator), backend, betas=(0.1, 0.7), lr=0.3, eps=0.1)


@pytest.mark.parametrize("pack", [False, True], ids=["bool", "bits"])
@pytest.mark.parametrize("size", [1, 8, 9, 8191, 8193, 16_385, 3 * 16_384 + 5])
def test_many_pieces(size, pack, backend, generator):
    """Around the bytes of the mask, and the pieces of both paths."""
    assert_agrees(*make_state([(5,), (size,)], torch.float32, generator), backend, pack)


def test_several_dtypes_and_kinds_of_mask_in_one_model(backend, generator):
    made = [make_state([(37,), (8, 8)], d, generator) for d in (torch.float32, torch.bfloat16)]
    state = [[x for one, _, _ in made for x in one[which]] for which in range(4)]
    masks, scales = ([x for one in made for x in one[which]] for which in (1, 2))
    before = [[x.clone() for x in tensors] for tensors in state]
    given_masks = [kernels.pack_mask(mask) if i % 2 else mask for i, mask in enumerate(masks)]
    kernels.masked_adamw_(*state, given_masks, scales, **NUMBERS, backend=backend)
    assert_agrees(before, masks, scales, backend)
    for tensors, others in zip(state, before, strict=True):
        for x, y in zip(tensors, others, strict=True):
            assert same_bits(x, y)


def test_pruned_entries_keep_nan_zero_signs_and_infinity(dtype, backend, generator):
    """Also from a gradient or a scale that is not finite."""
    state, masks, scales = make_state([(64,)], dtype, generator)
    odd = torch.tensor([math.nan, -math.nan, -0.0, math.inf, -math.inf, 6e-8, 0.0, 1.0], dtype=dtype)
    masks[0][8:16] = False
    for (tensor,) in (*state, scales):
        tensor[8:16] = odd
    assert_agrees(state, masks, scales, backend)


@pytest.mark.parametrize("kept", [True, False], ids=["all", "none"])
def test_mask_of_one_kind(kept, dtype, backend, generator):
    state, masks, scales = make_state(SHAPES, dtype, generator)
    assert_agrees(state, [torch.full_like(mask, kept) for mask in masks], scales, backend, pack=True)


def test_live_zeros_move(backend):
    """The mask decides, not the value."""
    state = [[torch.zeros(3)], [torch.ones(3)], [torch.zeros(3)], [torch.zeros(3)]]
    kernels.masked_adamw_(*state, [torch.tensor([True, False, True])], None, **NUMBERS, backend=backend)
    assert (state[0][0] == 0).tolist() == [False, True, False]


def test_first_step_by_hand(dtype, backend):
    """g = 4, empty moments: m = 0.4, v = 0.16, d = 4 / 4; theta = 2 - 0.5 * 0.25 * 2 - 0.5 * 3 * 1 = 0.25."""
    state = [[torch.full((2,), value, dtype=dtype)] for value in (2.0, 4.0, 0.0, 0.0)]
    numbers = {"step": 1, "lr": 0.5, "betas": (0.9, 0.99), "eps": 1e-18, "weight_decay": 0.25}
    mask, scale = [torch.tensor([True, False])], [torch.full((2,), 3.0, dtype=dtype)]
    kernels.masked_adamw_(*state, mask, scale, **numbers, backend=backend)
    for which, exact, size in ((0, 0.25, 4.0), (2, 0.4, 0.4), (3, 0.16, 0.16)):
        changed, untouched = state[which][0].double().tolist()
        assert abs(changed - exact) <= admitted_error(dtype, 4, torch.tensor(size, dtype=torch.float64))
        assert untouched == (2.0 if which == 0 else 0.0)


def test_many_steps_follow_torch(backend, generator):
    """Dense masks and no scales are torch.optim.AdamW; 2e-13 is far above 20 roundings of float64."""
    (params, _, exp_avg, exp_avg_sq), masks, _ = make_state([(13, 7), (5,)], torch.float64, generator)
    peers = [p.clone().requires_grad_() for p in params]
    optimizer = torch.optim.AdamW(peers, lr=0.01, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
    for moments in (exp_avg, exp_avg_sq):
        torch._foreach_zero_(moments)
    dense = [torch.ones_like(mask) for mask in masks]
    for step in range(1, 6):
        grads = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in params]
        kernels.masked_adamw_(
            params, grads, exp_avg, exp_avg_sq, dense, None, **NUMBERS | {"step": step}, backend=backend
        )
        for peer, grad in zip(peers, grads, strict=True):
            peer.grad = grad
        optimizer.step()
    for p, peer in zip(params, peers, strict=True):
        torch.testing.assert_close(p, peer.detach(), rtol=2e-13, atol=2e-13)


def test_extreme_gradients(backend, generator):
    state, masks, scales = make_state([(40,)], torch.float32, generator)
    state[1][0] *= torch.logspace(-30, 18, 40)
    assert_agrees(state, masks, scales, backend)


def test_zero_gradients_and_empty_moments_only_decay(dtype, backend):
    state = [[torch.full((9,), value, dtype=dtype)] for value in (1.0, 0.0, 0.0, 0.0)]
    assert_agrees(state, [torch.arange(9) % 2 == 0], None, backend, lr=0.5, weight_decay=0.5)
    assert state[0][0].tolist() == [0.75 if i % 2 == 0 else 1.0 for i in range(9)]


@pytest.mark.parametrize("pack", [False, True], ids=["bool", "bits"])
def test_non_contiguous(pack, dtype, backend, generator):
    state, masks, scales = make_state([(13, 34), (9, 17)], dtype, generator)
    state = [[x[:, ::2], y.t()] for x, y in state]
    assert_agrees(state, [masks[0][:, ::2], masks[1].t()], [scales[0][:, ::2], scales[1].t()], backend, pack)


def test_unaligned(dtype, backend, generator):
    state, masks, scales = make_state([(9001,)], dtype, generator)
    assert_agrees([[x[1:]] for (x,) in state], [masks[0][1:]], [scales[0][1:]], backend)


@pytest.mark.parametrize("pack", [False, True], ids=["bool", "bits"])
@pytest.mark.parametrize("size", [5, 3000, 8191, 9001])
def test_neighbours_in_memory_are_not_touched(size, pack, backend, generator):
    """Survivors on both sides of the part that is given would move if an offset or a bound were off by one."""
    state, _, scales = make_state([(size + 16,)], torch.float32, generator)
    before = [[x.clone() for x in tensors] for tensors in state]
    part = slice(8, size + 8)
    inner = [[x[part] for x in tensors] for tensors in state]
    mask = torch.ones(size + 16, dtype=torch.bool)[part]
    assert_agrees(inner, [mask], [scales[0][part]], backend, pack)
    for (now,), (then,) in zip(state, before, strict=True):
        assert same_bits(now[:8], then[:8])
        assert same_bits(now[size + 8 :], then[size + 8 :])


@pytest.mark.parametrize("pack", [False, True], ids=["bool", "bits"])
def test_stores_stay_in_place(pack, stores_in_place, generator):
    state, masks, scales = make_state([(101,), (8, 4), (1,)], torch.float32, generator)
    stores_in_place([x for tensors in state for x in tensors])
    assert_agrees(state, masks, scales, "triton", pack)


@pytest.mark.parametrize("chosen", [None, "reference", "triton"])
def test_empty(chosen):
    kernels.masked_adamw_([], [], [], [], [], [], **NUMBERS, backend=chosen)
    nothing = [torch.zeros(0, 3)]
    mask = torch.zeros(0, 3, dtype=torch.bool)
    kernels.masked_adamw_(
        nothing, nothing, nothing, nothing, [kernels.pack_mask(mask)], None, **NUMBERS, backend=chosen
    )


@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 20), max_size=3), min_size=1, max_size=4),
    pack=st.booleans(),
    step=st.integers(1, 1000),
    seed=st.integers(0, 2**31),
)
@pytest.mark.parametrize("chosen", [None, "triton"])
def test_any_shapes(chosen, shapes, pack, step, seed):
    generator = torch.Generator().manual_seed(seed)
    assert_agrees(*make_state(shapes, torch.float32, generator), chosen, pack, step=step)


def test_same_bits_twice(dtype, backend, generator):
    state, masks, scales = make_state([(20_001,), (6, 3)], dtype, generator)
    again = [[x.clone() for x in tensors] for tensors in state]
    for run in (state, again):
        kernels.masked_adamw_(*run, masks, scales, **NUMBERS, backend=backend)
    for tensors, others in zip(state, again, strict=True):
        for x, y in zip(tensors, others, strict=True):
            assert same_bits(x, y)


def test_autograd_learns_of_the_change(backend, generator):
    (params, *rest), masks, scales = make_state([(7,)], torch.float32, generator)
    leaf = params[0].requires_grad_()
    value = (leaf * leaf).sum()
    kernels.masked_adamw_([leaf], *rest, masks, scales, **NUMBERS, backend=backend)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@pytest.mark.parametrize("shape", [(8,), (3, 5), (), (0,), (17,)], ids=str)
def test_pack_mask_is_little_endian(shape, generator):
    mask = torch.rand(shape, generator=generator) < 0.5
    packed = kernels.pack_mask(mask)
    assert packed.tolist() == np.packbits(mask.numpy().ravel(), bitorder="little").tolist()
    assert torch.equal(reference.unpack_mask(packed, mask), mask)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=str)
def test_no_copy_of_a_whole_tensor(stored, backend, generator, largest_tensor):
    state, masks, scales = make_state([(40_000,)], stored, generator)
    packed = [kernels.pack_mask(masks[0])]
    given = [x for tensors in (*state, packed, scales) for x in tensors]
    with largest_tensor(*given) as largest:
        kernels.masked_adamw_(*state, packed, scales, **NUMBERS, backend="reference")
    assert largest.nbytes >= 40_000 * 8, "the recorder must see what the definition holds"
    with largest_tensor(*given) as largest:
        kernels.masked_adamw_(*state, packed, scales, **NUMBERS, backend=backend)
    assert largest.nbytes <= chunked.PIECE * 4


def good(**changed):
    arguments = {name: [torch.ones(2, 3)] for name in ("params", "grads", "exp_avg", "exp_avg_sq", "scales")}
    return arguments | {"masks": [torch.ones(2, 3, dtype=torch.bool)]} | NUMBERS | changed


BAD_INPUTS = {
    "not a list": ({"params": torch.ones(2)}, "params: got Tensor, want a list"),
    "no gradient": ({"grads": [None]}, r"grads\[0\]: got NoneType, want a tensor"),
    "lengths": ({"exp_avg": []}, "exp_avg: got 0 tensors, want as many as params, 1"),
    "shapes": ({"exp_avg_sq": [torch.ones(3, 2)]}, r"exp_avg_sq\[0\]: got shape \[3, 2\], want that of exp_avg\[0\]"),
    "integers": ({"scales": [torch.ones(2, 3).long()]}, r"scales\[0\]: got dtype torch.int64"),
    "shape of scales": ({"scales": [torch.ones(2, 1)]}, r"scales\[0\]: got shape \[2, 1\]"),
    "dtype of grads": ({"grads": [torch.ones(2, 3).half()]}, r"grads\[0\]: got dtype torch.float16, want that of"),
    "dtype of moments": (
        {"exp_avg": [torch.ones(2, 3).half()], "exp_avg_sq": [torch.ones(2, 3).half()]},
        r"exp_avg\[0\]: got dtype torch.float16, want that of params\[0\], torch.float32",
    ),
    "two dtypes of moments": (
        {"exp_avg_sq": [torch.ones(2, 3).double()]},
        r"exp_avg_sq\[0\]: got dtype torch.float64",
    ),
    "masks": ({"masks": torch.ones(1)}, "masks: got Tensor, want a list"),
    "number of masks": ({"masks": []}, "masks: got 0 tensors, want as many as params, 1"),
    "no mask": ({"masks": [None]}, r"masks\[0\]: got NoneType"),
    "shape of mask": (
        {"masks": [torch.ones(3, 2).bool()]},
        r"masks\[0\]: got torch.bool \[3, 2\], want torch.bool \[2",
    ),
    "dtype of mask": ({"masks": [torch.ones(2, 3)]}, r"masks\[0\]: got torch.float32 \[2, 3\]"),
    "bytes of mask": (
        {"masks": [torch.ones(2).byte()]},
        r"masks\[0\]: got torch.uint8 \[2\], want .* torch.uint8 \[1\]",
    ),
    "expanded": ({"params": [torch.ones(1, 3).expand(2, 3)]}, r"params\[0\]: got an expanded tensor"),
    "step zero": ({"step": 0}, "step: got 0, want an integer from 1"),
    "fractional step": ({"step": 1.0}, "step: got 1.0, want an integer from 1"),
    "rate": ({"lr": -1e-3}, "lr: got -0.001, want a finite number from 0"),
    "nan": ({"lr": math.nan}, "lr: got nan, want a finite number from 0"),
    "eps": ({"eps": 0.0}, r"eps: got 0.0, want a finite number above 0"),
    "decay": ({"weight_decay": math.inf}, "weight_decay: got inf, want a finite number from 0"),
    "one beta": ({"betas": (0.9,)}, r"betas: got \(0.9,\), want two numbers"),
    "beta of 1": ({"betas": (0.9, 1.0)}, r"betas\[1\]: got 1.0, want a number in \[0, 1\)"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
@pytest.mark.parametrize("chosen", [None, "reference", "triton"])
def test_bad_input_is_named_and_nothing_is_updated(case, chosen):
    changed, message = BAD_INPUTS[case]
    arguments = good(**changed)
    with pytest.raises(ValueError, match=message):
        kernels.masked_adamw_(**arguments, backend=chosen)
    for tensor in arguments["params"]:
        assert (tensor == 1).all()


def test_pack_mask_refuses_other_dtypes():
    with pytest.raises(ValueError, match=r"mask: got torch\.uint8, want a bool tensor"):
        kernels.pack_mask(torch.ones(3, dtype=torch.uint8))


@pytest.mark.gpu
@pytest.mark.parametrize("pack", [False, True], ids=["bool", "bits"])
def test_compiled(pack, dtype, cuda, generator):
    state, masks, scales = make_state([*SHAPES, (1_000_003,)], dtype, generator)
    on_cuda = [[x.to(cuda) for x in tensors] for tensors in state]
    assert_agrees(on_cuda, [mask.to(cuda) for mask in masks], [c.to(cuda) for c in scales], None, pack)
    assert kernels.last_backend() == "masked_adamw_: triton"
