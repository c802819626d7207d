"""AUM and CCS by it, on numbers small enough to work out."""

import pytest
import torch

from palimpsest.selection.aum import aum, ccs_by_aum


def test_the_margin_is_the_mean_over_epochs_of_the_gap_to_the_best_other():
    logits = torch.tensor([[[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]], [[1.0, 4.0, 0.0], [2.0, 1.0, 0.0]]])
    # Sample 0, class 0: 3 − 2 = 1 and 1 − 4 = −3; sample 1, class 1: 5 − 1 = 4 and 1 − 2 = −1.
    assert aum(logits, torch.tensor([0, 1])).tolist() == [-1.0, 1.5]


def test_the_hardest_go_and_small_strata_are_kept_whole():
    # beta .2 drops the two lowest. Two strata of [0, 10]: {0, 1, 2, 3, 4, 4.5} and {9, 10}, the smaller of which is
    # taken whole, and the other two of the budget of 4 come from the larger.
    margins = torch.tensor([9.0, 0.0, 1.0, -7.0, 2.0, 10.0, 3.0, -9.0, 4.0, 4.5])
    kept = ccs_by_aum(margins, 0.4, beta=0.2, bins=2).tolist()
    assert {0, 5} < set(kept) <= set(range(10)) - {3, 7}
    assert len(kept) == 4
    assert kept == sorted(kept) == ccs_by_aum(margins, 0.4, beta=0.2, bins=2).tolist()
    assert len({tuple(ccs_by_aum(margins, 0.4, beta=0.2, bins=2, seed=seed).tolist()) for seed in range(9)}) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": 0.7}, "beta: got 0.7, which leaves 3 samples of 5"),
        ({"beta": 1.0}, "beta: got 1.0, want a finite number of at least 0 and at most"),
        ({"fraction": 0}, "fraction: got 0, want a finite number above 0"),
        ({"bins": 0}, "bins: got 0"),
        ({"margins": torch.tensor([0.0, torch.inf])}, "margins must be finite"),
    ],
)
def test_what_cannot_be_meant_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        ccs_by_aum(**{"margins": torch.arange(10.0), "fraction": 0.5} | change)


def test_one_class_has_no_margin():
    with pytest.raises(ValueError, match="logits has 1 class column"):
        aum(torch.zeros(1, 2, 1), torch.tensor([0, 0]))
