from itertools import pairwise

import pytest
import torch

from palimpsest.data import adjacent_noise, class_balanced_draw, symmetric_noise


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("noise", [symmetric_noise, adjacent_noise])
@pytest.mark.parametrize(
    ("rate", "n", "wrong"),
    # 0.25 * 10 = 2.5 and 0.35 * 10 = 3.5: ties go to the even number.
    [(0, 1000, 0), (0.2, 1000, 200), (0.25, 10, 2), (0.35, 10, 4), (0.999, 1000, 999), (0.5, 0, 0)],
)
def test_exactly_the_stated_number_is_wrong(noise, rate, n, wrong):
    labels = torch.arange(n) % 4
    before = labels.clone()
    noisy, is_wrong = noise(labels, rate, 4, generator())
    assert is_wrong.dtype == torch.bool
    assert noisy.dtype == torch.int64
    assert int(is_wrong.sum()) == wrong
    assert torch.equal(noisy != labels, is_wrong)
    assert torch.equal(labels, before)
    assert n == 0 or 0 <= int(noisy.min()) <= int(noisy.max()) < 4


def test_symmetric_noise_reaches_every_other_class_equally():
    labels = torch.full((30_000,), 2)
    noisy, wrong = symmetric_noise(labels, 0.9, 4, generator())
    counts = noisy[wrong].bincount(minlength=4)
    # 27,000 draws over three classes: binomial sd sqrt(27000 * 1/3 * 2/3) = 77; five of them.
    assert counts[2] == 0
    assert all(abs(int(counts[c]) - 9000) < 5 * 77 for c in (0, 1, 3))


def test_with_two_classes_a_wrong_label_is_the_other_one():
    for noise in (symmetric_noise, adjacent_noise):
        noisy, wrong = noise(torch.tensor([0, 1, 0, 1]), 0.5, 2, generator())
        assert torch.equal(noisy, torch.tensor([0, 1, 0, 1]) ^ wrong.long())


def test_adjacent_noise_moves_one_grade_and_the_ends_move_inwards():
    labels = torch.arange(40_000) % 4
    noisy, wrong = adjacent_noise(labels, 0.8, 4, generator())
    step = noisy - labels
    assert step[wrong].abs().unique().tolist() == [1]
    assert step[wrong & (labels == 0)].unique().tolist() == [1]
    assert step[wrong & (labels == 3)].unique().tolist() == [-1]
    inner = step[wrong & (labels == 1)]
    # About 8,000 fair coins: sd of their sum is sqrt(8000) = 89; five of them.
    assert abs(int(inner.sum())) < 5 * 90


@pytest.mark.parametrize("noise", [symmetric_noise, adjacent_noise])
def test_noise_repeats_from_a_seed_and_grows_with_the_rate(noise):
    labels = torch.randint(0, 5, (500,), generator=generator(1))
    results = [noise(labels, rate, 5, generator(7)) for rate in (0.1, 0.2, 0.4)]
    assert torch.equal(results[0][0], noise(labels, 0.1, 5, generator(7))[0])
    assert not torch.equal(results[0][0], noise(labels, 0.1, 5, generator(8))[0])
    for (low, low_wrong), (high, high_wrong) in pairwise(results):
        assert not (low_wrong & ~high_wrong).any()
        assert torch.equal(low[low_wrong], high[low_wrong])


@pytest.mark.parametrize("noise", [symmetric_noise, adjacent_noise])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 1.0}, r"rate: got 1.0, want a share in \[0, 1\)"),
        ({"rate": -0.1}, "rate: got -0.1"),
        ({"rate": float("nan")}, "rate: got nan"),
        ({"classes": 1}, "classes: got 1"),
        ({"classes": 3}, r"labels: got values in 0 .. 3, want 0 .. 2"),
        ({"labels": torch.zeros(4)}, r"labels: got torch.float32 \[4\], want int64"),
        ({"labels": torch.zeros(2, 2).long()}, r"labels: got torch.int64 \[2, 2\]"),
    ],
)
def test_noise_refuses_bad_input(noise, change, message):
    given = {"labels": torch.arange(4), "rate": 0.5, "classes": 4, "generator": generator()} | change
    with pytest.raises(ValueError, match=message):
        noise(**given)


def test_balanced_draw_is_balanced_sorted_without_repeats_and_seeded():
    labels = torch.tensor([3] * 50 + [0] * 70 + [7] * 60)[torch.randperm(180, generator=generator(2))]
    drawn = class_balanced_draw(labels, 40, generator(5))
    assert labels[drawn].bincount().tolist() == [40, 0, 0, 40, 0, 0, 0, 40]
    assert (drawn.diff() > 0).all()
    assert torch.equal(drawn, class_balanced_draw(labels, 40, generator(5)))
    assert not torch.equal(drawn, class_balanced_draw(labels, 40, generator(6)))
    everything = class_balanced_draw(torch.tensor([1, 0, 0, 1]), 2, generator())
    assert everything.tolist() == [0, 1, 2, 3]


def test_balanced_draw_is_uniform_within_a_class():
    labels = torch.tensor([0, 0, 0, 0])
    hits = torch.zeros(4)
    rng = generator()
    for _ in range(4000):
        hits[class_balanced_draw(labels, 1, rng)] += 1
    # Binomial(4000, 1/4): sd sqrt(4000 * 3/16) = 27; five of them.
    assert all(abs(count - 1000) < 5 * 27.4 for count in hits.tolist())


def test_balanced_draw_names_the_short_class():
    labels = torch.tensor([0, 0, 0, 4, 4, 9, 9, 9])
    with pytest.raises(ValueError, match="class 4 has 2 samples, 3 are wanted"):
        class_balanced_draw(labels, 3, generator())
    with pytest.raises(ValueError, match="per_class: got 0"):
        class_balanced_draw(labels, 0, generator())
    with pytest.raises(ValueError, match=r"labels: got torch.float32"):
        class_balanced_draw(labels.float(), 1, generator())
