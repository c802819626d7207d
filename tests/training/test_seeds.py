"""One rule for drawing seeds: a draw depends on the seed and on its purpose, and on nothing else."""

import hashlib
from itertools import combinations

import torch

from palimpsest.training import seeds

PURPOSES = [
    (),
    ("images",),
    ("forget set",),
    ("epoch", 0),
    ("epoch", 1),
    ("epoch", 10),
    ("unlearning", 1, "labels", 0),
]


def test_a_derived_seed_is_the_first_bits_of_a_hash():
    digest = hashlib.sha256(b"7\0forget set").hexdigest()
    assert seeds.derived(7, "forget set") == int(digest[:16], 16) // 2


def test_seeds_and_purposes_do_not_share_numbers():
    draws = {(s, p): torch.rand(4, generator=seeds.generator(s, *p)) for s in (0, 1, 60) for p in PURPOSES}
    for one, other in combinations(draws, 2):
        assert not torch.equal(draws[one], draws[other]), (one, other)


def test_a_draw_leaves_no_trace_on_the_next():
    first = torch.rand(4, generator=seeds.generator(3, "images"))
    torch.rand(100, generator=seeds.generator(3, "images"))
    assert torch.equal(torch.rand(4, generator=seeds.generator(3, "images")), first)


def test_epochs_are_permutations_of_their_own():
    orders = [seeds.epoch_order(50, 5, epoch) for epoch in (0, 1)]
    assert all(order.sort().values.tolist() == list(range(50)) for order in orders)
    assert not torch.equal(*orders)
