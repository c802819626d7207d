"""Every baseline on a case small enough to check by hand."""

import sys

import pytest
import torch

from palimpsest import selection
from palimpsest.selection import Signals

# One class on a line: mean (0 + 1 + 4 + 7)/4 = 3.
LINE = torch.tensor([0.0, 1.0, 4.0, 7.0])[:, None]
FOUR = torch.zeros(4, dtype=torch.int64)


def kept(method, fraction, features=LINE, labels=FOUR, **options):
    return selection.select(features, labels, fraction, method, **options).tolist()


def test_full_keeps_everything_at_any_fraction():
    assert kept("full", 0.01) == [0, 1, 2, 3]


def test_random_is_stratified_seeded_and_nested():
    features, labels = torch.zeros(100, 1), torch.arange(100) % 2
    draws = [kept("random", 0.3, features, labels, seed=seed) for seed in range(20)]
    assert all(sum(i % 2 for i in draw) == 15 for draw in draws)
    assert draws[0] == kept("random", 0.3, features, labels, seed=0)
    assert len({tuple(draw) for draw in draws}) == 20
    assert set(draws[0]) < set(kept("random", 0.5, features, labels, seed=0))
    # Drawn, not cut off: 20 draws of 15 in 50 leave a sample out of all with probability .7²⁰ = .0008 each.
    assert len(set().union(*draws)) > 95


def test_moderate_by_hand():
    # Mean 0; distances 0, 1, 2, 10, 13 with median 2 and mean 5.2. |d − 2| = 2, 1, 0, 8, 11.
    # The mean as criterion would keep 1, 2 and 3 (|d − 5.2| = 5.2, 4.2, 3.2, 4.8, 7.8).
    features, labels = torch.tensor([0.0, 1.0, 2.0, 10.0, -13.0])[:, None], torch.zeros(5, dtype=torch.int64)
    assert kept("moderate", 0.2, features, labels) == [2]
    assert kept("moderate", 0.6, features, labels) == [0, 1, 2]
    assert kept("jscds", 0.6, features, labels, divergence="l2") == [1, 2, 3]


def test_moderate_is_jscds_with_l2_and_the_median():
    features = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(60) % 3
    same = kept("jscds", 0.4, features, labels, divergence="l2", rule="near_median")
    assert kept("moderate", 0.4, features, labels) == same


def test_herding_by_hand():
    # Targets (t + 1)·3 − Σ chosen: 3, nearest 4 (index 2); 6 − 4 = 2, nearest 1; 9 − 5 = 4, nearest 7, not 0.
    # The argmax would begin with 7 (index 3); sorting by distance to the mean would take 0 third.
    assert kept("herding", 0.25) == [2]
    assert kept("herding", 0.5) == [1, 2]
    assert kept("herding", 0.75) == [1, 2, 3]


def test_k_center_by_hand():
    # Start at 4, nearest to 3. Distances 4, 3, ·, 3: take 0. Then 1 is covered at 1 and 7 at 3: take 7.
    assert kept("k_center", 0.25) == [2]
    assert kept("k_center", 0.5) == [0, 2]
    assert kept("k_center", 0.75) == [0, 2, 3]


@pytest.mark.parametrize("method", ["k_center", "herding"])
def test_greedy_methods_keep_duplicates_once_each(method):
    assert kept(method, 0.75, torch.ones(4, 2)) == [0, 1, 2]


def test_el2n_by_hand():
    # softmax (3/4, 1/4): label 0 errs by (−1/4, 1/4), norm √2/4; label 1 by (3/4, −3/4), norm 3√2/4.
    # softmax (1/2, 1/2): norm √2/2 for either.
    sure, unsure = [torch.tensor(3.0).log().item(), 0.0], [0.0, 0.0]
    logits = torch.tensor([sure, sure, unsure])
    labels = torch.tensor([0, 1, 0])
    unit = 2**0.5 / 4
    one = selection.el2n(logits, labels)
    torch.testing.assert_close(one, unit * torch.tensor([1.0, 3.0, 2.0]), rtol=8 * 2**-23, atol=0)
    # A second network, unsure of all: the mean of each with 2.
    two = selection.el2n(torch.stack([logits, torch.zeros(3, 2)]), labels)
    torch.testing.assert_close(two, unit * torch.tensor([1.5, 2.5, 2.0]), rtol=8 * 2**-23, atol=0)


def test_el2n_keeps_the_hardest_on_average():
    # Label 0 throughout: a larger second logit is harder. To the first network sample 3 is hardest, to the
    # second sample 0, and 1 and 2 are easy for both.
    first = torch.tensor([[0.0, -5.0], [0.0, -4.0], [0.0, -3.0], [0.0, 1.0]])
    second = torch.tensor([[0.0, 9.0], [0.0, -4.0], [0.0, -3.0], [0.0, -5.0]])
    assert kept("el2n", 0.25, signals=Signals(early_logits=first[None])) == [3]
    assert kept("el2n", 0.5, signals=Signals(early_logits=torch.stack([first, second]))) == [0, 3]


def test_grand_keeps_the_largest_mean_norm():
    # Means over two networks: 3, 3.5, 2.5, 0. The first alone would put sample 2 first.
    norms = torch.tensor([[1.0, 2.0, 5.0, 0.0], [5.0, 5.0, 0.0, 0.0]])
    assert kept("grand", 0.25, signals=Signals(grad_norms=norms)) == [1]
    assert kept("grand", 0.5, signals=Signals(grad_norms=norms)) == [0, 1]


def test_forgetting_keeps_the_most_forgotten():
    assert kept("forgetting", 0.5, signals=Signals(forgetting=torch.tensor([0.0, 1.0, 2.0, 4.0]))) == [2, 3]
    never = torch.tensor([0.0, torch.inf, 2.0, 4.0])
    assert kept("forgetting", 0.25, signals=Signals(forgetting=never)) == [1]


def test_low_loss_keeps_the_likeliest_label():
    # Label 0: the loss falls with the margin 0, 1, −2, 3.
    logits = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-2.0, 0.0], [3.0, 0.0]])
    assert kept("low_loss", 0.25, signals=Signals(logits=logits)) == [3]
    assert kept("low_loss", 0.75, signals=Signals(logits=logits)) == [0, 1, 3]


def test_cleanlab_keeps_the_most_trusted_labels():
    # Self-confidence of the given label: .9, .2 | .6, .7.
    probs = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.3, 0.7]])
    labels = torch.tensor([0, 0, 1, 1])
    assert kept("cleanlab", 0.5, labels=labels, signals=Signals(out_of_sample_probs=probs)) == [0, 3]


def test_cleanlab_missing_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab.rank", None)
    with pytest.raises(ImportError, match=r"pip install 'palimpsest-companion\[peers\]'"):
        kept("cleanlab", 0.5, signals=Signals(out_of_sample_probs=torch.ones(4, 1)))


def ccs_case():
    # Label 0 and softmax (1 − s, s): EL2N is √2·s.
    wrong = torch.tensor([0.10, 0.11, 0.12, 0.13, 0.14, 0.15, 0.16, 0.50, 0.80, 0.90])
    logits = torch.stack([(1 - wrong).log(), wrong.log()], dim=1)
    return torch.zeros(10, 1), torch.zeros(10, dtype=torch.int64), Signals(early_logits=logits[None])


def test_ccs_by_hand():
    # beta = .2 drops indices 8 and 9. Two strata of the rest: [.1, .3) holds seven samples, [.3, .5] one.
    # Budget 4: the small stratum first, min(1, 4 // 2) = 1; then min(7, 3 // 1) = 3 of the seven.
    features, labels, signals = ccs_case()
    draws = [kept("ccs", 0.4, features, labels, seed=seed, signals=signals, beta=0.2, bins=2) for seed in range(20)]
    assert all(len(draw) == 4 and draw[3] == 7 for draw in draws)
    # A given one of the seven misses all 20 draws of three with probability (4/7)²⁰ = 1.4e-5.
    assert set().union(*draws) == set(range(8))


def test_ccs_strata_share_evenly():
    # Two strata of four; budget 5: 5 // 2 = 2 from one, 3 from the other, never 4 and 1.
    wrong = torch.tensor([0.10, 0.11, 0.12, 0.13, 0.50, 0.51, 0.52, 0.53])
    logits = torch.stack([(1 - wrong).log(), wrong.log()], dim=1)
    for seed in range(10):
        draw = kept(
            "ccs", 0.625, torch.zeros(8, 1), torch.zeros(8, dtype=torch.int64), seed=seed,
            signals=Signals(early_logits=logits[None]), beta=0.0, bins=2,
        )  # fmt: skip
        assert sum(i < 4 for i in draw) in (2, 3)
        assert len(draw) == 5


def test_ccs_with_equal_scores_is_a_random_draw():
    signals = Signals(early_logits=torch.zeros(1, 4, 2))
    assert len(kept("ccs", 0.5, signals=signals)) == 2


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"beta": 1.0}, r"beta is 1\.0; wanted a number in \[0, 1\)"),
        ({"beta": -0.1}, r"beta is -0\.1"),
        ({"bins": 0}, "bins is 0; wanted a positive integer"),
        ({"bins": 2.5}, r"bins is 2\.5"),
        ({"beta": 0.7}, r"beta 0\.7 leaves 3 of the 10 samples of class 0, but fraction 0\.4 keeps 4"),
        ({"cutoff": 0.1}, "method 'ccs' has no switch 'cutoff'; its switches: beta, bins"),
    ],
)
def test_ccs_refuses(switches, message):
    features, labels, signals = ccs_case()
    with pytest.raises(ValueError, match=message):
        kept("ccs", 0.4, features, labels, signals=signals, **switches)


def brute_force(method, x, k):
    """The two greedy rules as their definitions read, sample by sample, in float64."""
    mean, chosen = x.mean(0), []
    for t in range(k):
        left = [i for i in range(len(x)) if i not in chosen]
        if method == "herding":
            target = (t + 1) * mean - sum(x[i] for i in chosen)
            chosen.append(min(left, key=lambda i: float((target - x[i]).norm())))
        elif not chosen:
            chosen.append(min(left, key=lambda i: float((mean - x[i]).norm())))
        else:
            chosen.append(max(left, key=lambda i: min(float((x[i] - x[j]).norm()) for j in chosen)))
    return sorted(chosen)


@pytest.mark.parametrize("method", ["k_center", "herding"])
def test_greedy_methods_equal_their_definitions_far_from_the_origin(method):
    # The offset would cost float32 all but three digits of the differences if squares were expanded about 0.
    x = 1000 + torch.randn(25, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(25, dtype=torch.int64)
    for k in (3, 8, 20):
        assert kept(method, k / 25, x, labels) == brute_force(method, x.double(), k)
