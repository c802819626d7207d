import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pairs import properties

from palimpsest.decoding import SPECVLM, TOKEN_RECYCLING, Tree
from palimpsest.decoding.tree import MOST

trees = st.integers(0, 30).flatmap(
    lambda size: st.tuples(*(st.integers(-1, node - 1) for node in range(size))).map(Tree)
)


@properties
@given(trees)
def test_everything_derived_agrees_with_walking_up(tree):
    for node in range(len(tree)):
        line, above = {node}, tree.parents[node]
        while above >= 0:
            line.add(above)
            above = tree.parents[above]
        assert tree.depths[node] == len(line)
        assert set(np.flatnonzero(tree.ancestors[node])) == line
        siblings = tree.children(tree.parents[node])
        assert siblings[tree.ranks[node]] == node
        assert list(siblings) == sorted(siblings)
    assert sum(len(tree.children(node)) for node in range(-1, len(tree))) == len(tree)
    assert tree.depth == max((len(path) for path in tree.paths), default=0)
    leaves = [node for node in range(len(tree)) if not tree.children(node)]
    assert [path[-1] for path in tree.paths] == leaves
    for path in tree.paths:
        assert [tree.parents[node] for node in path] == [-1, *path[:-1]]


@properties
@given(trees)
def test_verified_rows_put_the_root_above_every_node(tree):
    depths, ancestors = tree.verification
    assert depths == [0, *tree.depths]
    assert ancestors[:, 0].all()
    assert not ancestors[0, 1:].any()
    assert (ancestors[1:, 1:] == tree.ancestors).all()


def test_a_chain_is_one_path():
    assert Tree.chain(4).paths == ((0, 1, 2, 3),)
    assert len(Tree.chain(0)) == 0
    with pytest.raises(ValueError, match="length: got -1"):
        Tree.chain(-1)


def test_specvlm_counts():
    assert len(SPECVLM) == 25
    assert [SPECVLM.depths.count(depth) for depth in range(1, 6)] == [4, 8, 8, 3, 2]


def test_children_by_level():
    tree = Tree.from_children(((2,), (1, 2), (0, 0, 1)))
    assert tree.parents == (-1, -1, 0, 1, 1, 4)
    with pytest.raises(ValueError, match=r"levels: got .* for depth 2, want counts of 2 nodes"):
        Tree.from_children(((2,), (1, 1, 1)))


def test_counts_prefer_small_sums_of_ranks():
    tree = Tree.from_counts((2, 3))
    assert tree.parents == (-1, -1, 0, 0, 1)  # ranks 00, 01, 10 before 02
    assert Tree.from_counts((3, 0)).parents == (-1, -1, -1)
    with pytest.raises(ValueError, match="counts: got 1 at depth 2"):
        Tree.from_counts((0, 1))


@properties
@given(st.lists(st.integers(1, 6), max_size=4))
def test_counts_are_kept(counts):
    tree = Tree.from_counts(counts)
    assert [tree.depths.count(depth) for depth in range(1, len(counts) + 1)] == counts


@pytest.mark.parametrize("parents", [(0,), (-1, 1), (-1, 2, 1), (-2,)])
def test_a_parent_comes_first(parents):
    with pytest.raises(ValueError, match="parents: got"):
        Tree(parents)


def test_too_many_nodes():
    assert len(Tree.chain(MOST)) == MOST
    with pytest.raises(ValueError, match=f"want at most {MOST}"):
        Tree.chain(MOST + 1)


def test_trees_are_immutable_and_comparable():
    tree = Tree.chain(2)
    with pytest.raises(AttributeError):
        tree.parents = ()
    with pytest.raises(ValueError, match="read-only"):
        tree.ancestors[0, 1] = True
    assert tree == Tree((-1, 0))
    assert hash(tree) == hash(Tree((-1, 0)))


def test_the_tree_of_token_recycling_has_its_80_nodes():
    assert len(TOKEN_RECYCLING) == 80
    assert np.bincount(TOKEN_RECYCLING.depths).tolist() == [0, 8, 21, 25, 15, 8, 3]
    # The deepest: the likeliest after the likeliest, twice, and one that begins to differ at the fourth token.
    paths = [[TOKEN_RECYCLING.ranks[node] for node in path] for path in TOKEN_RECYCLING.paths if len(path) == 6]
    assert paths == [[0] * 6, [0, 0, 0, 0, 0, 1], [0, 0, 0, 1, 0, 0]]
