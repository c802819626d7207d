"""Scores of membership for texts: cases worked by hand."""

import math
import zlib

import numpy as np
import pytest
import torch

from palimpsest.metrics import membership, tofu
from palimpsest.metrics.text_membership import min_k_plus_plus, reference_gap, zlib_ratio

ULPS = 32 * np.finfo(float).eps
"""A handful of float64 operations, each off by at most one unit in the last place."""


def test_min_k_plus_plus_by_hand():
    # Standardised: 1, -3, -1, 0, 2: of five the two least are -3 and -1. Of the second row one of three: -2.
    logprobs = [[-1.0, -8.0, -3.0, -2.0, -1.0], [-2.5, -99.0, -1.0, -4.0, -99.0]]
    means = [[-2.0, -2.0, -2.5, -2.0, -2.0], [-2.0, 0.0, -1.0, -2.0, 0.0]]
    deviations = [[1.0, 2.0, 0.5, 3.0, 0.5], [0.5, 0.0, 2.0, 1.0, 0.0]]
    labels = [[7, 7, 7, 7, 7], [7, -100, 7, 7, -100]]
    found = min_k_plus_plus(logprobs, means, deviations, labels)
    assert found == pytest.approx([(3 + 1) / 2, 2], rel=ULPS)
    # Another order than that of the plain score, in which -8 and -3 are the least.
    assert tofu.min_k(logprobs, labels)[0] == pytest.approx(5.5, rel=ULPS)


def test_a_certain_token_scores_zero_and_a_surprise_there_does_not_divide_by_zero():
    assert min_k_plus_plus([[0.0]], [[0.0]], [[0.0]], [[3]]).tolist() == [0]
    assert min_k_plus_plus([[-2.0]], [[0.0]], [[0.0]], [[3]]) == pytest.approx([2000], rel=ULPS)


def test_a_scale_of_the_deviations_is_one_of_the_score():
    generator = torch.Generator().manual_seed(0)
    logs = torch.randn(4, 9, 20, generator=generator, dtype=torch.float64).log_softmax(2)
    labels = torch.randint(20, (4, 9), generator=generator)
    own = logs.gather(2, labels[..., None])[..., 0]
    mean = (logs.exp() * logs).sum(2)
    deviation = (logs.exp() * logs**2).sum(2).sub(mean**2).sqrt()
    found = min_k_plus_plus(own, mean, deviation, labels)
    assert min_k_plus_plus(own, mean, 2 * deviation, labels) == pytest.approx(found / 2, rel=ULPS)
    for row in range(4):
        scores = sorted((own[row] - mean[row]) / deviation[row])
        assert found[row] == pytest.approx(-sum(scores[:3]).item() / 3, rel=1e-12)  # 40 % of nine, rounded down


def test_zlib_ratio_by_hand():
    texts = ["", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "The quick brown fox jumps over it", "Ы"]
    # A header of two bytes and a checksum of four; an empty block is two more, in every build of zlib.
    assert zlib_ratio([4.0], [""]).tolist() == [0.5]
    sizes = [len(zlib.compress(text.encode("utf-8"))) for text in texts]
    assert sizes[1] < 16 < 33 < sizes[2]
    assert zlib_ratio([1.0, 2.0, 3.0, 0.0], texts) == pytest.approx([1 / 8, 2 / sizes[1], 3 / sizes[2], 0], rel=ULPS)


def test_zlib_and_a_reference_change_the_ranking():
    # Members: one that repeats itself and one that does not; the stranger is easy only because it repeats itself.
    members, stranger = [1.0, 1.2], [0.9]
    assert membership.auc(members, stranger) == 0
    easy, hard = "ha " * 20, "Vex quad nymph's jolt: bring fowl zip! 7531"
    by_zlib = zlib_ratio(members, [hard, hard]), zlib_ratio(stranger, [easy])
    assert membership.auc(*by_zlib) == 1
    assert membership.auc(reference_gap(members, [3.0, 2.5]), reference_gap(stranger, [1.0])) == 1


def test_reference_gap_by_hand():
    assert reference_gap(torch.tensor([1.0, 2.5]), [3.0, 2.0]).tolist() == [-2, 0.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: min_k_plus_plus([[0.0]], [[0.0, 0.0]], [[1.0]], [[1]]),
            r"means: got shape \[1, 2\], want that of logprobs, \[1, 1\]",
        ),
        (lambda: min_k_plus_plus([[0.0]], [[0.0]], [[-1.0]], [[1]]), r"deviations: got -1\.0, want numbers of at"),
        (lambda: min_k_plus_plus([[0.0]], [[math.nan]], [[1.0]], [[1]]), r"means: got nan at \[0, 0\]"),
        (lambda: min_k_plus_plus([[0.0]], [[0.0]], [[1.0]], [[-100]]), "labels: got none that counts in row 0"),
        (lambda: zlib_ratio([1.0], []), "texts: got 0 texts, want one for each of 1 losses"),
        (lambda: zlib_ratio([1.0], "a"), "texts: got one string, want one for each"),
        (lambda: zlib_ratio([], []), r"losses: got float64 \[0\]"),
        (lambda: reference_gap([1.0], [1.0, 2.0]), "reference_losses: got 2, want the 1 of losses"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("texts", "got"), [(None, "NoneType"), (3, "int"), (["a", 3], "2 texts"), ("ab", "one string")]
)
def test_what_are_no_texts_is_refused(texts, got):
    with pytest.raises(ValueError, match=f"texts: got {got}, want one for each of 2 losses"):
        zlib_ratio([1.0, 2.0], texts)
