"""TOFU's measures: numbers published with the benchmark from its logs, and cases worked by hand."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from palimpsest import metrics
from palimpsest.metrics import tofu

PUBLISHED = json.loads((Path(__file__).parents[1] / "data" / "tofu_logs.json").read_text(encoding="utf-8"))
RETAIN99 = PUBLISHED["retain99/eval_log_forget"]
REAL_AUTHORS = PUBLISHED["full/eval_real_author_wo_options"]
BOARD = PUBLISHED["leaderboard"]

CUT = 1e-6
"""Losses and ratios in the excerpt are cut off at the sixth decimal: each is too small by less than this."""
ULPS = 32 * np.finfo(float).eps
"""A handful of float64 operations, each off by at most one unit in the last place."""


def ratio_of(log):
    return tofu.truth_ratio(log["avg_paraphrased_loss"], log["average_perturb_loss"])


def test_published_truth_ratios():
    # ln R is a difference of two cut losses: off by less than CUT. The logged ratio itself is cut as well, and was
    # computed in float32.
    for found, logged in (
        (ratio_of(RETAIN99), RETAIN99["truth_ratio"]),
        (ratio_of(PUBLISHED["full/eval_log_forget[260:300]"]), PUBLISHED["full/eval_log_forget/truth_ratio"][260:]),
    ):
        logged = np.array(logged)
        assert (abs(found - logged) < logged * (CUT + 1e-6) + CUT).all()
        # R, not 1 / R and not an arithmetic mean over the wrong answers: those are far off.
        assert (abs(found - 1 / logged) > 0.01).any()


def test_published_scores_of_a_set():
    # Means of numbers in [0, 1] whose derivative in each loss is at most 1 (that of R where R < 1, too).
    row = BOARD["llama-1p: Retain Model"]
    assert tofu.probability(RETAIN99["avg_gt_loss"]).mean() == pytest.approx(row["Prob. Forget"], abs=CUT)
    ratio = ratio_of(RETAIN99)
    assert tofu.truth_closeness(ratio).mean() == pytest.approx(row["Truth Ratio Forget"], abs=CUT)
    row, log = BOARD["llama-1p: Finetune Model"], REAL_AUTHORS
    choice = tofu.choice_probability(log["avg_gt_loss"], log["average_perturb_loss"])
    assert choice.mean() == pytest.approx(row["Prob. Real Authors"], abs=CUT)
    assert tofu.truth_score(ratio_of(log)).mean() == pytest.approx(row["Truth Ratio Real Authors"], abs=CUT)
    assert np.mean(log["rougeL_recall"]) == pytest.approx(row["ROUGE Real Authors"], rel=ULPS)


def test_published_forget_quality():
    # Only the order of the ratios counts, and cutting them off does not change it: the p-values are exact.
    found = tofu.forget_quality(ratio_of(PUBLISHED["full/eval_log_forget[260:300]"]), ratio_of(RETAIN99))
    assert found == (BOARD["llama-1p: Finetune Model"]["Forget Quality"], 17 / 40)
    full = PUBLISHED["full/eval_log_forget/truth_ratio"]
    retain90 = PUBLISHED["retain90/eval_log_forget/truth_ratio"]
    p, statistic = tofu.forget_quality(full, retain90)
    assert p == pytest.approx(BOARD["llama-10p: Finetune Model"]["Forget Quality"], rel=1e-12)
    assert statistic == pytest.approx(119 / 300, rel=ULPS)
    assert tofu.log10_p(statistic, 300) == pytest.approx(math.log10(1.834066410994743e-21), rel=1e-12)
    assert tofu.forget_quality(retain90, retain90) == (1, 0)


@pytest.mark.parametrize("name", BOARD)
def test_published_model_utility(name):
    nine = [BOARD[name][f"{m} {s}"] for s in ("Retain", "Real Authors", "Real World") for m in METRICS]
    assert tofu.model_utility(nine) == pytest.approx(BOARD[name]["Model Utility"], rel=1e-12, abs=0)


METRICS = ("Prob.", "ROUGE", "Truth Ratio")


def test_probability_by_hand():
    assert tofu.probability([0.0, math.log(4), 800.0]) == pytest.approx([1, 0.25, 0], rel=ULPS)
    assert tofu.probability(torch.tensor([-1e-7])).tolist() == [1]


def test_choice_probability_by_hand():
    # 1/2 against 1/4 and 1/4: one half. 1/8 against three of 1/8: a quarter.
    right = [math.log(2), math.log(8)]
    wrong = [[math.log(4)] * 2, [math.log(8)] * 2]
    assert tofu.choice_probability(right, wrong) == pytest.approx([1 / 2, 1 / 3], rel=ULPS)
    assert tofu.choice_probability(right[1:], [[math.log(8)] * 3]) == pytest.approx([1 / 4], rel=ULPS)
    # Probabilities of e^-1000 have no double, their ratio has.
    assert tofu.choice_probability([1000.0], [[1000.0 + math.log(2)]]) == pytest.approx([2 / 3], rel=1e-12)
    assert tofu.choice_probability([2000.0, 0.0], [[0.0], [2000.0]]) == pytest.approx([0, 1], abs=1e-300)


def test_truth_ratio_by_hand():
    # Wrong answers of probability 1/2 and 1/8: geometric mean 1/4, arithmetic 5/16. Right answer: 1/2.
    losses = [[math.log(2), math.log(8)]]
    assert tofu.truth_ratio([math.log(2)], losses) == pytest.approx([1 / 2], rel=ULPS)
    assert tofu.truth_ratio(torch.tensor([math.log(2)] * 2), torch.tensor(losses * 2)).tolist() == pytest.approx(
        [1 / 2] * 2, rel=1e-6
    )
    # The exponent is bounded, so that a model that is far gone has a ratio.
    assert tofu.truth_ratio([900.0, 0.0], [[0.0], [900.0]]).tolist() == [math.exp(700), math.exp(-700)]


def test_truth_score_by_hand():
    assert tofu.truth_score([0.0, 0.25, 1.0, 7.0]).tolist() == [1, 0.75, 0, 0]


def test_truth_closeness_by_hand():
    assert tofu.truth_closeness([0.25, 1.0, 8.0]).tolist() == [0.25, 1, 0.125]
    assert tofu.truth_closeness([math.exp(700), math.exp(-700)]) == pytest.approx(
        [math.exp(-700)] * 2, rel=1e-12, abs=0
    )


def test_forget_quality_by_hand():
    # {1, 2, 3} and {2.5, 4, 5}: at 2 the shares below or at it are 2/3 and 0, at 3 they are 1 and 1/3: D = 2/3.
    # Exact p: paths from (0, 0) to (3, 3) that reach |i - j| = 2, 1 - 8 / 20 by counting those that do not.
    p, statistic = tofu.forget_quality([1.0, 2.0, 3.0], [2.5, 4.0, 5.0])
    assert (p, statistic) == (pytest.approx(12 / 20, rel=1e-12), pytest.approx(2 / 3, rel=ULPS))
    # Samples of different size: all of two below all of three, 2 of C(5, 2) orders are as extreme.
    assert tofu.forget_quality([0.1, 0.2], [1.0, 2.0, 3.0]) == (pytest.approx(2 / 10, rel=1e-12), 1)


def test_log10_p_by_hand():
    # n = 3: D = 1 in 2 of C(6, 3) = 20 orders, D = 2/3 or more in 12 of them, and some difference in all.
    for statistic, p in ((1, 2 / 20), (2 / 3, 12 / 20), (1 / 3, 1), (0, 1)):
        assert tofu.log10_p(statistic, 3) == pytest.approx(math.log10(p), abs=100 * ULPS)
    # The value that open-unlearning publishes for gradient ascent, 1.06e-239, given to three digits: D = 1, n = 400.
    assert tofu.log10_p(1.0, 400) == pytest.approx(math.log10(1.06e-239), abs=0.005 / 1.06 / math.log(10))
    # 1000 choices of integers hold their own: 2 / C(1200, 600) has no double.
    assert tofu.log10_p(1.0, 600) == pytest.approx(math.log10(2) - math.log10(math.comb(1200, 600)), rel=1e-12)


@pytest.mark.parametrize("n", [1, 7, 40, 300])
def test_log10_p_is_that_of_scipy(n):
    # Log-gammas of 2n are good to 1e-13 of about n ln n. The smallest D are left out: there scipy's exact p can be
    # rounded to above 1, and it then takes the asymptotic one.
    stride = max(1, n // 20)
    for steps in (0, *range(max(2, stride), n + 1, stride), n):
        p, statistic = tofu.forget_quality(np.arange(n), np.arange(n) + steps)
        assert statistic == pytest.approx(steps / n, rel=ULPS)
        assert tofu.log10_p(statistic, n) == pytest.approx(math.log10(p), abs=1e-10)


def test_model_utility_by_hand():
    # 9 / (8 / 1 + 1 / 0.5) = 0.9; the arithmetic mean would be 0.94.
    assert tofu.model_utility([1.0] * 8 + [0.5]) == pytest.approx(0.9, rel=ULPS)
    assert tofu.model_utility([1.0] * 8 + [0.0]) == 0


PREDICTED = torch.tensor([[5, 6, 7, 8, 9], [5, 0, 7, 8, 0], [0, 6, 7, 8, 9], [5, 6, 0, 8, 0]])
LABELS = torch.tensor([[-100, 6, 7, 8, -100], [-100, 6, 7, 8, -100], [-100, 6, 7, 8, 0], [5, -100, 7, 8, -100]])


def test_exact_memorisation_by_hand():
    # Row 2 misses the last of four, row 1 the first of three, row 3 the middle one of three.
    assert tofu.exact_memorisation(PREDICTED, LABELS) == pytest.approx([1, 2 / 3, 3 / 4, 2 / 3], rel=ULPS)


def test_extraction_strength_by_hand():
    # The runs that end the answers: 3 of 3, 2 of 3, 0 of 4 (the last token is wrong), 1 of 3.
    assert tofu.extraction_strength(PREDICTED, LABELS) == pytest.approx([1, 2 / 3, 0, 1 / 3], rel=ULPS)


def test_min_k_by_hand():
    # Two of five, one of four (1.6), one of one; positions with a negative label are left out, however small.
    logprobs = [[-1.0, -5.0, -2.0, -3.0, -4.0], [-1.0, -2.0, -7.0, -3.0, -99.0], [-99.0, -0.5, 0.0, 0.0, 0.0]]
    labels = [[1, 1, 1, 1, 1], [1, 1, 1, 1, -100], [-100, 1, -1, -1, -1]]
    assert tofu.min_k(logprobs, labels) == pytest.approx([4.5, 7, 0.5], rel=ULPS)


def test_priv_leak_by_hand():
    # A forget item has the larger loss in 2 of 4 pairs after retraining.
    retrained = [1.0, 3.0], [0.0, 4.0]
    assert tofu.priv_leak(*retrained, *retrained) == 0
    # Still memorised: none. Over-unlearned: all 4 of 4. Half-way: 1 of 4.
    assert tofu.priv_leak([0.1, 0.2], [1.0, 2.0], *retrained) == -100
    assert tofu.priv_leak([8.0, 9.0], [1.0, 2.0], *retrained) == 100
    assert tofu.priv_leak([0.0, 1.5], [1.0, 2.0], *retrained) == pytest.approx(-50, rel=ULPS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tofu.probability([math.inf]), r"losses: got inf at \[0\], want \[N\] finite"),
        (lambda: tofu.probability([]), r"losses: got float64 \[0\]"),
        (lambda: tofu.truth_ratio([1.0], [1.0]), r"perturbed_losses: got float64 \[1\], want \[N, M\]"),
        (lambda: tofu.truth_ratio([1.0], [[1.0], [2.0]]), "perturbed_losses: got 2 rows, want the 1 of paraphrased"),
        (lambda: tofu.truth_ratio([math.nan], [[1.0]]), r"paraphrased_loss: got nan at \[0\]"),
        (
            lambda: tofu.choice_probability([1.0], [[1.0], [2.0]]),
            "wrong_losses: got 2 rows, want the 1 of right",
        ),
        (lambda: tofu.truth_closeness([1.0, 0.0]), r"ratio: got 0\.0, want numbers above 0"),
        (lambda: tofu.forget_quality([math.nan], [1.0]), "unlearned_truth_ratio: got nan"),
        (lambda: tofu.forget_quality([1.0], []), "retain_truth_ratio: got float64"),
        (lambda: tofu.log10_p(0.3, 40.0), r"n: got 40\.0, want an integer"),
        (lambda: tofu.log10_p(0.33, 40), r"statistic: got 0\.33, want a multiple of 1/40"),
        (lambda: tofu.log10_p(1.025, 40), r"statistic: got 1\.025, want a multiple of 1/40 in \[0, 1\]"),
        (lambda: tofu.log10_p(math.nan, 40), "statistic: got nan"),
        (lambda: tofu.model_utility([0.5] * 8), "nine_scores: got .* want nine numbers"),
        (lambda: tofu.model_utility([0.5] * 8 + [1.5]), r"nine_scores: got .* want nine numbers in \[0, 1\]"),
        (lambda: tofu.model_utility([0.5] * 8 + [-0.5]), r"nine_scores: got .* want nine numbers in \[0, 1\]"),
        (lambda: tofu.exact_memorisation([[1, 2]], [[1]]), r"predicted: got int64 \[1, 2\], want .*\[1, 1\]"),
        (lambda: tofu.extraction_strength([[1.0]], [[1]]), "predicted: got float64"),
        (lambda: tofu.extraction_strength([[1], [1]], [[1], [-100]]), "labels: got none that counts in row 1"),
        (lambda: tofu.min_k([[0.0]], [[1.0]]), r"labels: got float64 \[1, 1\], want \[N, T\] integers"),
        (lambda: tofu.min_k([[0.0]], [[1, 1]]), r"labels: got shape \[1, 2\], want that of logprobs, \[1, 1\]"),
        (lambda: tofu.priv_leak([1.0], [2.0], [1.0], [2.0]), "retrained_forget: got only scores below"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_metrics_are_imported_when_used():
    code = "import sys; from palimpsest import metrics; assert not {'numpy', 'scipy', 'torch'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert metrics.tofu is tofu
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        metrics.nothing  # noqa: B018
