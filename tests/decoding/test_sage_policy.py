import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pairs import distribution, properties
from scripted import FLAT, GEOMETRIC, SURE, Scripted, drafted_by, probabilities

from palimpsest import decoding, kernels
from palimpsest.decoding import SPECVLM, Tree
from palimpsest.decoding.policies.sage import OPTIONS, Sage

histories = st.lists(st.integers(0, 9), max_size=40)
sages = st.fixed_dictionaries(
    {name: st.sampled_from(values) for name, values in OPTIONS.items()} | {"nodes": st.integers(1, 80)}
).map(lambda options: Sage(**options))


def test_lemma_4_3_is_false_and_its_correction_tight():
    half = torch.full((1, 20), -math.inf)
    half[0, :2] = 0
    probs, _, alpha = kernels.topk_confidence(half, 10)
    p1, alpha = float(probs[0, 0]), float(alpha[0])
    assert alpha == pytest.approx(0.699, abs=5e-4)
    assert 1 / 10 + alpha * 9 / 10 == pytest.approx(0.729, abs=5e-4)  # the lemma's bound on p1
    assert p1 == pytest.approx(0.5)
    assert p1 == pytest.approx(10 ** (alpha - 1))  # the corrected bound, met


@properties
@given(probabilities)
def test_the_corrected_lemma_holds(one):
    assert one.probs[0] >= 10 ** (one.alpha - 1) - 1e-9


def test_both_readings_of_the_threshold():
    """Node counts that were worked out by hand, level by level, for ranked probabilities that halve."""
    assert len(Sage().next(GEOMETRIC, ())) == 15
    assert len(Sage(threshold="token").next(GEOMETRIC, ())) == 56


def test_a_plain_floor_leaves_a_chain_of_three_nodes():
    almost_sure = distribution([0.999] + [0.001 / 9] * 9)
    assert Sage(rounding="floor").next(almost_sure, ()).parents == (-1, 0, 1)
    assert Sage().next(almost_sure, ()).parents == tuple(range(-1, 7))


def test_depth_and_width_at_the_ends():
    assert Sage().shape(SURE, ()) == pytest.approx((8, 2), abs=1e-6)
    assert Sage().shape(FLAT, ()) == pytest.approx((3, 10), abs=1e-6)
    assert Sage(width="constant").shape(SURE, ()) == pytest.approx((8, 6), abs=1e-6)
    assert Sage(dmin=2, dmax=4, wmin=1, wmax=3).shape(FLAT, ()) == pytest.approx((2, 3), abs=1e-6)


def test_the_first_round_takes_the_start_tree():
    assert Sage().next(None, ()) == SPECVLM
    assert Sage().shape(None, ()) is None
    assert Sage(start=Tree.chain(2)).next(None, ()) == Tree.chain(2)


@properties
@given(sages, probabilities, histories)
def test_budget_depth_and_width_are_bounded(sage, one, history):
    depth, width = sage.shape(one, history)
    assert 3 <= depth <= 8
    assert 2 <= width <= 10
    if sage.online:
        _, tree = drafted_by(sage, Scripted(one), one, one, history)
    else:
        tree = sage.next(one, history)
    assert len(tree) <= sage.nodes
    assert tree.depth <= 8
    assert max(tree.ranks, default=0) < 10


@properties
@given(sages, probabilities, probabilities, histories)
def test_depth_grows_and_width_falls_with_alpha(sage, one, other, history):
    low, high = sorted((one, other), key=lambda distribution: distribution.alpha)
    (shallow, wide), (deep, narrow) = sage.shape(low, history), sage.shape(high, history)
    assert deep >= shallow
    assert narrow <= wide


@properties
@given(probabilities, histories)
def test_equal_nodes_get_equal_trees_by_template_and_online(one, history):
    """Where every node has the same distribution, growing node by node is filling the template."""
    template = Sage().next(one, history)
    _, online = drafted_by(Sage(tree="online"), Scripted(one), one, one, history)
    assert online == template


def test_online_asks_each_node_itself():
    root = distribution([0.8, 0.2], [1, 2])
    drafter = Scripted(SURE, {2: FLAT})
    drafted, tree = drafted_by(Sage(tree="online"), drafter, root, SURE)
    assert drafted.tokens[:2] == [1, 2]
    assert tree.children(1) == ()  # 0.2 · 0.1 misses the threshold 0.1 · 2 / 8
    assert tree.depth == 8


def test_online_starts_from_half():
    policy = Sage(tree="online")
    drafted = decoding.draft.Draft(SURE)
    policy.grow(drafted, [-1], 1, None, ())
    want = decoding.draft.Draft(SURE)
    policy.grow(want, [-1], 1, SURE._replace(alpha=0.5), ())
    assert drafted.tokens == want.tokens


@pytest.mark.parametrize(
    ("history", "dmax"),
    [
        ((), 8),
        ((1,), 7),  # below 2: one down
        ((2, 2, 3), 8),  # between: kept
        ((0,) * 20, 3),  # never below dmin
        ((0,) * 5 + (5,) * 30, 8),  # never above the ceiling
        ((0, 6), 7),  # a mean of 3 is not above it
        ((1, 1, 4, 4, 4), 6),  # means 1, 1, 2, 2.5, 2.8: two down
        ((0,) * 3 + (9,) * 3, 7),  # means 0, 0, 0, 2.25, 3.6, 4.5: three down, two up
    ],
)
def test_history_moves_the_greatest_depth(history, dmax):
    depth, _ = Sage().shape(SURE, history)
    assert depth == pytest.approx(dmax, abs=1e-6)


def test_history_looks_back_one_window():
    forgotten = (0,) * 4 + (5,) * 4
    # Means 0, 0, 0, 0, then of the last two 2.5, 5, 5, 5.
    assert Sage(window=2).shape(SURE, forgotten)[0] == pytest.approx(4 + 3, abs=1e-6)
    # Means 9, 9, 9, 5, then 1 twice.
    assert Sage(window=2).shape(SURE, (9, 9, 9, 1, 1, 1))[0] == pytest.approx(8 - 2, abs=1e-6)


def test_what_the_history_moves():
    half, low = GEOMETRIC._replace(alpha=0.5), (0,) * 3  # the greatest depth falls to 5
    assert Sage().shape(half, low)[0] == pytest.approx(3 + 0.5 * 2)
    assert Sage(adapt="cap").shape(half, low)[0] == pytest.approx(5)
    assert Sage(adapt="cap").shape(half, (0,) * 5)[0] == pytest.approx(3)
    assert Sage(adapt="off").shape(half, low)[0] == pytest.approx(5.5)


def test_sources_of_the_next_tree():
    drafted = decoding.draft.Draft(FLAT)
    drafted.branch(-1, 2)
    drafted.distributions[0] = SURE
    drafted.branch(0, 1)
    assert Sage().read(drafted, [0, 2]) is FLAT
    assert Sage(source="deepest").read(drafted, [0, 2]) is SURE  # the leaf 2 has none
    assert Sage(source="deepest").read(drafted, []) is FLAT
    mean = Sage(source="mean").read(drafted, [])
    assert mean.alpha == pytest.approx((FLAT.alpha + SURE.alpha) / 2)
    assert mean.probs == pytest.approx([(a + b) / 2 for a, b in zip(FLAT.probs, SURE.probs, strict=True)])
    drafted.distributions[2] = GEOMETRIC
    drafted.branch(2, 1)
    assert Sage(source="deepest").read(drafted, [0, 2, 3]) is GEOMETRIC
    assert [Sage(source=source).look_ahead for source in OPTIONS["source"]] == [True, True, True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "leaf"}, "source: got 'leaf', want one of 'root'"),
        ({"rounding": "up"}, "rounding: got 'up'"),
        ({"nodes": 0}, "nodes: got 0"),
        ({"dmin": 9}, "dmax: got 8, want at least dmin, 9"),
        ({"wmin": 11}, "wmax: got 10"),
        ({"low": 4}, "low: got 4, want at most high, 3"),
        ({"window": 0}, "window: got 0"),
        ({"k": True}, "k: got True"),
        ({"nodes": 1025}, "nodes: got 1025, want an integer from 1 to 1024"),
    ],
)
def test_settings_of_sage_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sage(**options)
