"""SparseGPT with joint quantisation, by hand and against its parts."""

import pytest
import torch

from palimpsest.pruning import Pattern, sparsegpt
from palimpsest.pruning.sparsegpt_quantised import grid, rounded, solve

GENERATOR = torch.Generator().manual_seed(0)


def test_a_grid_of_two_bits_holds_zero_and_both_ends():
    weight = torch.tensor([[-0.3, 0.1, 0.6], [0.2, 0.5, 0.9], [0.0, 0.0, 0.0]], dtype=torch.float64)
    scale, zero = grid(weight, 2)
    assert torch.allclose(scale[:, 0], torch.tensor([0.3, 0.3, 1.0], dtype=torch.float64))
    assert zero[:, 0].tolist() == [1, 0, 0]
    want = torch.tensor([[-0.3, 0.0, 0.6], [0.3, 0.6, 0.9], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(rounded(weight, scale, zero, 2), want)


def test_two_columns_by_hand():
    """H = [[2, 1], [1, 2]], damped by .02 to 2.02 on the diagonal. What column 0 loses by rounding, .8 − 1, moves
    column 1 by +(w − q)·H_01 / H_11 = −.2·1/2.02: the best that it can do for the squared error of the outputs."""
    weight = torch.tensor([[0.8, 0.55], [-0.5, 0.1]], dtype=torch.float64)
    hessian = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    scale, zero = grid(weight, 1)  # row 0: 0 or .8; row 1: −.5 or .1 − .5·…, by the row's ends
    kept, found = solve(weight, hessian, Pattern.parse(0.5), 1, block=1)
    assert kept.sum() == 2
    for row in range(2):
        first = rounded(weight, scale, zero, 1)[row, 0] if kept[row, 0] else 0.0
        moved = weight[row, 1] + (weight[row, 0] - first) * 1.0 / 2.02
        want = rounded(moved.view(1, 1), scale[row : row + 1], zero[row : row + 1], 1) if kept[row, 1] else 0.0
        assert float(found[row, 0]) == pytest.approx(float(first))
        assert float(found[row, 1]) == pytest.approx(float(want))


@pytest.mark.parametrize("sparsity", [0.5, "2:4"])
def test_on_a_grid_too_fine_to_see_it_is_sparsegpt(sparsity):
    weight, inputs = torch.randn(6, 8, generator=GENERATOR), torch.randn(30, 8, generator=GENERATOR)
    weight[:, 0], weight[:, 1] = 5.0, -5.0  # the ends of each row's grid, which nothing moves beyond
    hessian, pattern = sparsegpt.hessian(inputs), Pattern.parse(sparsity)
    kept, found = solve(weight.double(), hessian.double(), pattern, 40)
    want_kept, want = sparsegpt.solve(weight.double(), hessian.double(), pattern)
    assert torch.equal(kept, want_kept)
    assert torch.allclose(found, want.masked_fill(~want_kept, 0), atol=1e-8)


def test_together_loses_less_than_one_after_the_other():
    weight = torch.randn(16, 32, generator=GENERATOR)
    inputs = torch.randn(200, 8, generator=GENERATOR) @ torch.randn(8, 32, generator=GENERATOR)
    inputs += 0.1 * torch.randn(200, 32, generator=GENERATOR)
    hessian, pattern = sparsegpt.hessian(inputs), Pattern.parse(0.5)
    kept, found = solve(weight, hessian, pattern, 3)
    assert torch.equal(found[~kept], torch.zeros(int((~kept).sum())))
    scale, zero = grid(weight, 3)
    assert torch.allclose(found, rounded(found, scale, zero, 3), atol=1e-6)
    alone_kept, alone = sparsegpt.solve(weight, hessian, pattern)
    after = rounded(alone.masked_fill(~alone_kept, 0), scale, zero, 3)
    assert ((found - weight) @ inputs.T).norm() < 0.8 * ((after - weight) @ inputs.T).norm()


def test_no_bits_are_refused():
    with pytest.raises(ValueError, match="bits: got 0"):
        grid(torch.ones(2, 2), 0)
