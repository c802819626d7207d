import itertools
import math

import pytest
from hypothesis import given
from pairs import distribution, properties
from scripted import FLAT, GEOMETRIC, SURE, Scripted, drafted_by, probabilities

from palimpsest import decoding
from palimpsest.decoding import SPECVLM, Tree
from palimpsest.decoding.policies.sage import Sage
from palimpsest.decoding.policies.static import Static, fitted_tree, measured_acceptance

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


def test_an_entropy_chain_reads_entropies_of_small_vocabularies():
    flat = distribution([0.25] * 4, k=4)  # alpha 0 of 4 tokens: H = ln 4
    edge = 1 - math.sqrt(0.2 * math.log(4))
    for threshold, length in ((edge - 1e-6, 3), (edge + 1e-6, 1)):
        policy = decoding.policies["entropy_chain"](length=3, threshold=threshold)
        assert len(drafted_by(policy, Scripted(flat), flat)[1]) == length


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
