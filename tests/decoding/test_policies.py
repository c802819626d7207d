import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pairs import distribution, properties

from palimpsest import decoding, kernels
from palimpsest.decoding import SPECVLM, Drafter, Tree
from palimpsest.decoding.draft import draft
from palimpsest.decoding.policies.sage import OPTIONS, Sage
from palimpsest.decoding.policies.static import Static, fitted_tree, measured_acceptance
from palimpsest.decoding.stats import Clock

GEOMETRIC = distribution([0.5**rank for rank in range(1, 11)])
SURE = distribution([1.0] + [1e-12] * 9)
FLAT = distribution([0.1] * 10)

probabilities = st.lists(st.floats(1e-9, 1), min_size=10, max_size=10).map(distribution)
histories = st.lists(st.integers(0, 9), max_size=40)
sages = st.fixed_dictionaries(
    {name: st.sampled_from(values) for name, values in OPTIONS.items()} | {"nodes": st.integers(1, 80)}
).map(lambda options: Sage(**options))


class Scripted(Drafter):
    """The same distribution after every node, or the one that `by_token` names."""

    def __init__(self, always, by_token=None):
        self.always, self.by_token = always, by_token or {}
        self.calls = []

    def expand(self, drafted, nodes):
        self.calls.append(list(nodes))
        for node in nodes:
            drafted.distributions[node] = self.by_token.get(drafted.tokens[node], self.always)


def drafted_by(policy, drafter, root, signal=None, history=(), most=20):
    return draft(
        drafter, policy, root, signal or root, list(history), most, Clock(dict.fromkeys(("tree", "draft"), 0))
    )


# SAGE


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
    ],
)
def test_settings_of_sage_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sage(**options)


# Templates


def test_a_template_is_filled_by_rank_one_call_a_level():
    drafter = Scripted(distribution([0.5, 0.3, 0.2], [7, 8, 9]), {8: distribution([0.9, 0.1], [5, 6])})
    tree = Tree((-1, -1, 1, 1, 0, 2))
    drafted, got = drafted_by(Static(tree), drafter, drafter.always)
    by_path = {tuple(drafted.tokens[node] for node in path) for path in got.paths}
    assert by_path == {(7, 7), (8, 5, 7), (8, 6)}
    assert [len(level) for level in drafter.calls] == [2, 1]  # leaves are not asked


def test_a_tree_is_cut_at_the_length_left_and_where_the_drafter_knows_less():
    one = distribution([0.6, 0.4], [7, 8])
    _, tree = drafted_by(Static(SPECVLM), Scripted(one), one, most=2)
    assert tree.depth == 2
    assert max(tree.ranks) == 1
    _, tree = drafted_by(decoding.policies["eagle2"](), Scripted(one), one, most=1)
    assert tree.parents == (-1, -1)


def test_a_filled_template_is_the_template_itself():
    policy = Static(SPECVLM)
    _, tree = drafted_by(policy, Scripted(GEOMETRIC), GEOMETRIC)
    assert tree is SPECVLM


@pytest.mark.parametrize("name", ["chain", "entropy_chain", "eagle2", "opt_tree", "static"])
def test_a_budget_of_nothing_is_refused(name):
    option = {"chain": "length", "entropy_chain": "length", "static": "tree"}.get(name, "nodes")
    with pytest.raises(ValueError, match=f"{option}: got 0, want an integer from 1"):
        decoding.policies[name](**{option: Tree(()) if name == "static" else 0})


def test_static_asks_for_as_many_candidates_as_its_widest_node():
    assert Static().k == 10
    assert Static(Tree((-1,) * 14)).k == 14


# Chains that stop


def test_an_entropy_chain_stops_after_the_unsure_token():
    drafter = Scripted(SURE._replace(tokens=[1, 2]), {1: SURE._replace(tokens=[2, 3]), 2: FLAT})
    policy = decoding.policies["entropy_chain"](length=6)
    drafted, tree = drafted_by(policy, drafter, SURE._replace(tokens=[1, 2]))
    assert drafted.tokens == [1, 2, 0]  # 0, drawn from the flat distribution after 2, is the last
    assert tree == Tree.chain(3)
    _, tree = drafted_by(policy, Scripted(SURE), SURE)
    assert tree == Tree.chain(6)


def test_the_bound_of_an_entropy_chain():
    half = distribution([0.5, 0.5], [0, 1])  # H = ln 2: 1 - sqrt(scale ln 2)
    edge = 1 - math.sqrt(0.2 * math.log(2))
    for threshold, length in ((edge - 1e-6, 3), (edge + 1e-6, 1)):
        policy = decoding.policies["entropy_chain"](length=3, threshold=threshold)
        assert len(drafted_by(policy, Scripted(half), half)[1]) == length


# Dynamic trees


def best_by_hand(root, by_token, always, nodes, depth):
    """The `nodes` largest path probabilities of the whole tree of that depth: tokens of the paths."""
    paths = {(): 1.0}
    for _ in range(depth):
        for path, share in list(paths.items()):
            one = root if not path else by_token.get(path[-1], always)
            for token, p in zip(one.tokens, one.probs, strict=True):
                paths[(*path, token)] = share * p * one.mass
    del paths[()]
    return set(sorted(paths, key=paths.get, reverse=True)[:nodes])


@pytest.mark.parametrize("name", ["eagle2", "opt_tree"])
@pytest.mark.parametrize("nodes", [1, 4, 9])
def test_dynamic_trees_hold_the_likeliest_paths(name, nodes):
    root = distribution([0.5, 0.27, 0.2], [1, 2, 3])
    by_token = {2: distribution([0.83, 0.1, 0.05], [1, 2, 3]), 3: distribution([0.41, 0.31, 0.11], [1, 2, 3])}
    always = distribution([0.44, 0.33, 0.13], [1, 2, 3])
    options = {"top_k": 9} if name == "eagle2" else {"threshold": 0}
    policy = decoding.policies[name](nodes=nodes, depth=3, **options)
    drafted, tree = drafted_by(policy, Scripted(always, by_token), root)
    got = {tuple(drafted.tokens[n] for n in [*ancestors, node]) for node, ancestors in enumerate(lines(tree))}
    assert got == best_by_hand(root, by_token, always, nodes, 3)


def lines(tree):
    """Of each node its ancestors from depth 1 down."""
    above = []
    for parent in tree.parents:
        above.append([*above[parent], parent] if parent >= 0 else [])
    return above


def test_eagle2_expands_the_best_of_a_level_only():
    drafter = Scripted(FLAT, {0: distribution([0.9, 0.1], [0, 1])})
    drafted_by(decoding.policies["eagle2"](top_k=3, depth=4), drafter, GEOMETRIC)
    assert [len(level) for level in drafter.calls] == [3, 3, 3]
    drafter = Scripted(FLAT, {1: SURE})
    drafted_by(decoding.policies["eagle2"](top_k=3, depth=3), drafter, GEOMETRIC)
    assert drafter.calls[1] == [3, 4, 6]  # of 3 to 11: the sure child of the second, then two of the likeliest's


def test_opt_tree_goes_deeper_while_it_pays():
    policy = decoding.policies["opt_tree"](nodes=4, threshold=0.3)
    half = distribution([0.5], [1])._replace(mass=0.5)
    _, tree = drafted_by(policy, Scripted(half), half)
    assert tree == Tree.chain(2)  # 0.5, then 0.25 more, which is not above 0.3
    _, tree = drafted_by(decoding.policies["opt_tree"](nodes=4, threshold=0.2), Scripted(half), half)
    assert tree == Tree.chain(3)
    with pytest.raises(ValueError, match="threshold: got -1"):
        decoding.policies["opt_tree"](threshold=-1)


@pytest.mark.parametrize("name", ["eagle2", "opt_tree", "sage"])
@properties
@given(root=probabilities, below=probabilities)
def test_budgets_of_dynamic_trees(name, root, below):
    policy = Sage(tree="online", nodes=12) if name == "sage" else decoding.policies[name](nodes=12, depth=3)
    _, tree = drafted_by(policy, Scripted(below), root)
    assert 1 <= len(tree) <= 12
    assert tree.depth <= 8


# Fitted trees


def expected_length(tree, acceptance):
    chance = []
    for parent, rank in zip(tree.parents, tree.ranks, strict=True):
        chance.append(acceptance[rank] * (chance[parent] if parent >= 0 else 1))
    return sum(chance)


def all_trees(nodes):
    return (Tree(parents) for parents in itertools.product(*(range(-1, node) for node in range(nodes))))


@pytest.mark.parametrize("acceptance", [(0.6, 0.3, 0.1), (0.2, 0.5, 0.1), (0.9, 0.0, 0.4), (0.5,)])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_fitted_tree_is_the_best_of_all(acceptance, depth):
    got = fitted_tree(acceptance, 5, depth)
    assert len(got) <= 5
    assert got.depth <= depth
    possible = [t for t in all_trees(5) if t.depth <= depth and max(t.ranks) < len(acceptance)]
    smaller = [t for n in range(1, 5) for t in all_trees(n) if t.depth <= depth and max(t.ranks) < len(acceptance)]
    best = max(expected_length(tree, acceptance) for tree in possible + smaller)
    assert expected_length(got, acceptance) == pytest.approx(best)


def test_a_fitted_tree_of_sages_budget():
    acceptance = [0.55, 0.15, 0.08, 0.05, 0.03, 0.02, 0.01, 0.01, 0.01, 0.01]
    tree = fitted_tree(acceptance, 64, 8)
    assert len(tree) == 64
    assert tree.depth == 8
    assert expected_length(tree, acceptance) > expected_length(SPECVLM, acceptance)


def test_fits_that_are_refused():
    with pytest.raises(ValueError, match="acceptance: got"):
        fitted_tree([], 5, 5)
    with pytest.raises(ValueError, match="acceptance: got"):
        fitted_tree([1.2], 5, 5)
    with pytest.raises(ValueError, match="nodes: got 0"):
        fitted_tree([0.5], 0, 5)


def test_acceptance_is_counted_below_accepted_nodes_only():
    class One:
        tree = Tree((-1, -1, 0, 0))  # two children of the root, two of node 0
        path = (0, 3)

    class Other:
        tree = One.tree
        path = (1,)

    # Rank 0 offered at the root twice (taken once) and below node 0 once (not taken); rank 1 likewise.
    assert measured_acceptance([One, Other], 3) == pytest.approx([1 / 3, 2 / 3, 0])
