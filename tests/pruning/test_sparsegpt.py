"""SparseGPT against optimal brain surgery with a full inverse in every step, and against methods without updates."""

import math

import pytest
import torch

from palimpsest.pruning import Pattern, magnitude, sparsegpt, wanda

FLOAT64 = 1e-10
"""Relative to the largest weight. Both sides are float64; the damped Hessians here have condition numbers below
1e4, so that inverses agree to about 1e4 · 2⁻⁵³ ≈ 1e-12, and 40 columns add up their errors."""


def _problem(rows, columns, tokens=64, seed=0, dtype=torch.float64):
    """Weights [rows, columns] and correlated inputs [tokens, columns]."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator, dtype=dtype)
    mixing = torch.randn(columns, columns, generator=generator, dtype=dtype)
    inputs = torch.randn(tokens, columns, generator=generator, dtype=dtype) @ (
        mixing / columns**0.5 + torch.eye(columns, dtype=dtype)
    )
    return weight, inputs


def _surgery(weight, inputs, block, *, share=None, n_m=None):
    """Column by column; the inverse Hessian of the columns left is computed from nothing in each step."""
    rows, columns = weight.shape
    damped = inputs.T @ inputs
    damped = damped + 0.01 * damped.diagonal().mean() * torch.eye(columns, dtype=damped.dtype)
    inverses = [torch.linalg.inv(damped[j:, j:]) for j in range(columns)]
    weight, kept = weight.clone(), torch.ones(rows, columns, dtype=torch.bool)
    total = math.floor(share * rows * columns + 0.5) if share else None
    for j in range(columns):
        width = n_m[1] if n_m else block
        if j % width == 0:
            here = range(j, min(j + width, columns))
            cost = {(i, k): float(weight[i, k] ** 2 / inverses[k][0, 0]) for i in range(rows) for k in here}
            if n_m:
                picked = [sorted(((i, k) for k in here), key=cost.get)[: n_m[1] - n_m[0]] for i in range(rows)]
                gone = [place for row in picked for place in row]
            else:
                before, after = total * j // columns, total * (here[-1] + 1) // columns
                gone = sorted(cost, key=cost.get)[: after - before]
            for place in gone:
                kept[place] = False
        for i in range(rows):
            if not kept[i, j]:
                weight[i, j:] -= weight[i, j] / inverses[j][0, 0] * inverses[j][0]
    return kept, weight


@pytest.mark.parametrize("block", [1, 8, 128])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.75])
@pytest.mark.parametrize(("rows", "columns"), [(6, 24), (3, 13), (1, 40)])
def test_a_share_is_surgery(rows, columns, share, block):
    weight, inputs = _problem(rows, columns)
    kept, solved = sparsegpt.solve(weight, sparsegpt.hessian(inputs), Pattern.parse(share), block=block)
    expected, surgery = _surgery(weight, inputs, block, share=share)
    assert torch.equal(kept, expected)
    assert (solved - surgery)[kept].abs().max() < FLOAT64 * weight.abs().max()
    assert int((~kept).sum()) == math.floor(share * rows * columns + 0.5)


@pytest.mark.parametrize("block", [8, 128])
@pytest.mark.parametrize("n_m", [(2, 4), (4, 8), (1, 4), (3, 6)])
def test_n_m_is_surgery(n_m, block):
    weight, inputs = _problem(5, 24)
    pattern = Pattern.parse("{}:{}".format(*n_m))
    kept, solved = sparsegpt.solve(weight, sparsegpt.hessian(inputs), pattern, block=block)
    expected, surgery = _surgery(weight, inputs, block, n_m=n_m)
    assert torch.equal(kept, expected)
    assert (solved - surgery)[kept].abs().max() < FLOAT64 * weight.abs().max()
    assert kept.view(5, -1, n_m[1]).sum(2).unique().tolist() == [n_m[0]]


def test_float32_gives_the_masks_and_weights_of_float64():
    weight, inputs = _problem(6, 24, dtype=torch.float32)
    kept, solved = sparsegpt.solve(weight, sparsegpt.hessian(inputs), Pattern.parse(0.5))
    expected, exact = sparsegpt.solve(weight.double(), sparsegpt.hessian(inputs.double()), Pattern.parse(0.5))
    assert solved.dtype == torch.float32
    assert torch.equal(kept, expected)
    # The Hessian's rounding, √64 · 2⁻²⁴, grows by its condition number, below 1e3 here.
    assert (solved - exact)[kept].abs().max() < 8 * 2**-24 * 1e3 * weight.abs().max()


def _error(weight, kept, values, inputs):
    return float((inputs @ (weight - values * kept).T).square().sum())


# To a half: where most weights go, so do most that should compensate, and the greedy order guarantees nothing.
@pytest.mark.parametrize("sparsity", [0.3, 0.5, "2:4", "4:8"])
@pytest.mark.parametrize("seed", range(3))
def test_reconstruction_beats_pruning_without_updates(seed, sparsity):
    weight, inputs = _problem(16, 32, tokens=96, seed=seed)
    pattern = Pattern.parse(sparsity)
    error = _error(weight, *sparsegpt.solve(weight, sparsegpt.hessian(inputs), pattern), inputs)
    for kept in (
        wanda.mask(weight, wanda.squared_norms(inputs).sqrt(), pattern),
        magnitude.mask(weight, pattern),
    ):
        assert error < _error(weight, kept, weight, inputs)


def test_unused_inputs_go_first_and_change_nothing_else():
    weight, inputs = _problem(4, 16)
    unused = [3, 4, 11]
    inputs[:, unused] = 0
    used = [j for j in range(16) if j not in unused]
    kept, solved = sparsegpt.solve(weight, sparsegpt.hessian(inputs), Pattern.parse(3 / 16))
    assert torch.equal(kept, torch.tensor([j not in unused for j in range(16)]).expand(4, 16))
    assert torch.equal(solved[:, used], weight[:, used])
    # One more weight a row: the other inputs are solved as if the unused ones were not there, except that the
    # mean of the diagonal, and with it the damping, counts them.
    kept, solved = sparsegpt.solve(weight, sparsegpt.hessian(inputs), Pattern.parse(7 / 16))
    assert not kept[:, unused].any()
    assert solved.isfinite().all()
    error = _error(weight, kept, solved, inputs)
    assert error < _error(weight, kept, weight, inputs)


def test_without_any_activation_ties_fall_to_the_left_and_weights_stay():
    weight, _ = _problem(2, 8)
    kept, solved = sparsegpt.solve(weight, torch.zeros(8, 8, dtype=torch.float64), Pattern.parse("2:4"))
    assert torch.equal(kept, torch.tensor([False, False, True, True] * 2).expand(2, 8))
    assert torch.equal(solved[kept], weight[kept])


def test_more_inputs_than_tokens_are_solved():
    weight, inputs = _problem(4, 32, tokens=5)
    kept, solved = sparsegpt.solve(weight, sparsegpt.hessian(inputs), Pattern.parse(0.5))
    # Five tokens leave 27 directions free, so that the survivors of a row can make up for most of the rest.
    assert _error(weight, kept, solved, inputs) < 0.1 * _error(weight, kept, weight, inputs)


def test_arguments_stay_as_they_were():
    weight, inputs = _problem(4, 8)
    hessian = sparsegpt.hessian(inputs)
    copies = weight.clone(), hessian.clone()
    sparsegpt.solve(weight, hessian, Pattern.parse(0.5))
    assert torch.equal(weight, copies[0])
    assert torch.equal(hessian, copies[1])


def test_groups_that_do_not_divide_the_inputs_are_refused():
    weight, inputs = _problem(4, 6)
    with pytest.raises(ValueError, match="divisor of the 6 inputs"):
        sparsegpt.solve(weight, sparsegpt.hessian(inputs), Pattern.parse("2:4"))
