"""Which weights each score takes: by hand, against plain loops, at ties, and to the exact count."""

import math

import pytest
import torch

from palimpsest.pruning import Pattern, magnitude, random, wanda

# Norms by hand: 1, 2, 5 (from 3 and 4) and 0: an input that calibration never activates.
INPUTS = torch.tensor([[1.0, 0.0, 3.0, 0.0], [0.0, 2.0, -4.0, 0.0]])
WEIGHT = torch.tensor([[4.0, 0.5, 1.0, -1.0], [-3.0, 2.0, -1.0, 3.0]])


def _matrix(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def _bools(*rows):
    return torch.tensor([[character == "1" for character in row] for row in rows])


def test_wanda_by_hand():
    norms = wanda.squared_norms(INPUTS).sqrt()
    assert norms.tolist() == [1, 2, 5, 0]
    # Scores: 4 1 5 0 and 3 4 5 0.
    assert torch.equal(wanda.mask(WEIGHT, norms, Pattern.parse(0.25)), _bools("1110", "1110"))
    assert torch.equal(wanda.mask(WEIGHT, norms, Pattern.parse(0.5)), _bools("1010", "0110"))
    assert torch.equal(wanda.mask(WEIGHT, norms, Pattern.parse("1:2")), _bools("1010", "0110"))
    assert torch.equal(wanda.mask(WEIGHT, norms, Pattern.parse("1:4")), _bools("0010", "0010"))


def test_magnitude_by_hand():
    # 0.5, then three of magnitude 1, then 2.
    assert torch.equal(magnitude.mask(WEIGHT, Pattern.parse(0.5)), _bools("1000", "1101"))
    assert torch.equal(magnitude.mask(WEIGHT, Pattern.parse("2:4")), _bools("1001", "1001"))


def test_of_equal_scores_the_leftmost_go_first():
    equal = torch.ones(2, 8)
    assert torch.equal(wanda.mask(equal, torch.ones(8), Pattern.parse(3 / 8)), _bools("00011111", "00011111"))
    assert torch.equal(magnitude.mask(equal, Pattern.parse(0.5)), _bools("00000000", "11111111"))
    assert torch.equal(magnitude.mask(equal, Pattern.parse("2:4")), _bools("00110011", "00110011"))
    some = torch.tensor([[2.0, 1.0, 1.0, 0.0, 1.0, 3.0, 1.0, 0.0]])
    assert torch.equal(wanda.mask(some, torch.ones(8), Pattern.parse(0.5)), _bools("10001110"))


def test_inputs_that_calibration_never_activates_go_first():
    weight, norms = _matrix(6, 10), torch.rand(10, generator=torch.Generator().manual_seed(1))
    norms[[2, 5, 9]] = 0
    kept = wanda.mask(weight, norms, Pattern.parse(0.3))
    assert torch.equal(kept, (norms > 0).expand(6, 10))
    assert torch.equal(wanda.mask(weight, torch.zeros(10), Pattern.parse(0.3)), torch.arange(10).expand(6, 10) >= 3)


def _lowest(scores, pruned):
    """Indices of the `pruned` lowest of a list, one at a time."""
    left = list(range(len(scores)))
    for _ in range(pruned):
        left.remove(min(left, key=lambda index: scores[index]))
    return left


@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.5, 0.8, "2:4", "4:8", "1:4"])
def test_wanda_is_a_loop_over_rows(sparsity):
    weight, inputs = _matrix(5, 16), _matrix(20, 16, seed=1)
    kept = wanda.mask(weight, wanda.squared_norms(inputs).sqrt(), Pattern.parse(sparsity))
    n, m = (int(part) for part in sparsity.split(":")) if isinstance(sparsity, str) else (None, 16)
    pruned = math.floor(sparsity * m + 0.5) if n is None else m - n
    for i in range(5):
        for first in range(0, 16, m):
            scores = [
                abs(float(weight[i, j])) * math.sqrt(sum(float(x) ** 2 for x in inputs[:, j]))
                for j in range(first, first + m)
            ]
            assert kept[i, first : first + m].nonzero().flatten().tolist() == _lowest(scores, pruned)


@pytest.mark.parametrize("columns", [8, 13, 30])
@pytest.mark.parametrize("sparsity", [0.1, 0.29, 0.3, 0.5, 0.7, 0.9])
def test_counts_are_exact(sparsity, columns):
    pattern, weight = Pattern.parse(sparsity), _matrix(7, columns)
    for kept in (magnitude.mask(weight, pattern), random.mask(weight.shape, pattern, torch.Generator())):
        assert int((~kept).sum()) == math.floor(sparsity * 7 * columns + 0.5)
    pruned = (~wanda.mask(weight, torch.ones(columns), pattern)).sum(1)
    assert pruned.tolist() == [math.floor(sparsity * columns + 0.5)] * 7


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 4), (3, 5)])
def test_n_m_keeps_n_of_every_m(n, m):
    pattern, weight = Pattern.parse(f"{n}:{m}"), _matrix(6, 4 * m)
    for kept in (
        magnitude.mask(weight, pattern),
        wanda.mask(weight, torch.rand(4 * m), pattern),
        random.mask(weight.shape, pattern, torch.Generator()),
    ):
        assert kept.view(6, 4, m).sum(2).unique().tolist() == [n]


def test_random_masks_depend_on_the_seed_and_on_nothing_else():
    pattern = Pattern.parse(0.5)
    a, b, c = (random.mask((40, 50), pattern, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(a, b)
    # 2000 weights, half of them in each: the number that differ has mean 1000 and standard deviation below 23.
    assert 1000 - 5 * 23 < int((a != c).sum()) < 1000 + 5 * 23


@pytest.mark.parametrize(
    "sparsity",
    [0, 1, 0.0, 1.0, -0.1, 1.5, float("nan"), True, None, "4:4", "0:4", "5:4", "2", "2:4:8", "a:b", "-2:4"],
)
def test_a_sparsity_that_means_nothing_is_refused(sparsity):
    with pytest.raises(ValueError, match="sparsity: got"):
        Pattern.parse(sparsity)


@pytest.mark.parametrize("sparsity", [0.01, 0.99])
def test_a_sparsity_that_leaves_all_or_nothing_of_a_row_is_refused(sparsity):
    with pytest.raises(ValueError, match="of 8 compared weights"):
        wanda.mask(_matrix(4, 8), torch.ones(8), Pattern.parse(sparsity))


def test_groups_that_do_not_divide_the_inputs_are_refused():
    with pytest.raises(ValueError, match="divisor of the 6 inputs"):
        magnitude.mask(_matrix(4, 6), Pattern.parse("2:4"))
