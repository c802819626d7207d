"""A method has one colour in the whole book, and those that are drawn together differ."""

import ast

import pytest

from palimpsest.chapters.jscds.cohort import METHODS as SELECTIONS
from palimpsest.chapters.sage.arms import POLICIES
from palimpsest.chapters.sage.figures import ADAPTIVE, POLICY
from palimpsest.chapters.sau.profiles import PROFILES
from palimpsest.chapters.unlearning_quantised.arms import METHODS as UNLEARNING
from palimpsest.figures import METHODS, SIDES, method_colour
from palimpsest.runs.paths import ROOT

ROOMS = sorted((ROOT / "lib" / "palimpsest" / "chapters").glob("*/*figures.py"))
TOGETHER = {
    "papers": ("D wanda", "OEU", "Q-MUL", "jscds", "sage"),
    "sau, sparsity": ("A", "B", "C", "D wanda", "E", "F"),
    "sau, truth ratios": ("target", "oracle", "A", "B", "C", "D wanda"),
    "sau, search": ("A", "B", "C", "D wanda", "F", "C, again"),
    "unlearning, entropies": ("original", "retrain", "random label", "Q-MUL", "OEU"),
    "oeu, courses": ("OEU", "entropy only"),
    "qmul, noise": ("random label", "similar labels", "KL(u, p)"),
    "jscds": ("jscds", "random"),
    "sage": (*POLICY, *ADAPTIVE),
}


@pytest.mark.parametrize("figure", TOGETHER)
def test_methods_that_are_drawn_together_have_colours_of_their_own(figure):
    shown = [METHODS[name] for name in TOGETHER[figure]]
    assert len(set(shown)) == len(shown)


def test_every_entry_is_a_method_of_a_chapter_and_all_others_share_one_colour():
    kinds = {arm.kind for arm in (*PROFILES["ci"].arms, *PROFILES["ci"].asides)}
    known = (
        kinds | {"target", "oracle", "original", "retrain"} | UNLEARNING.keys() | SELECTIONS.keys() | POLICIES.keys()
    )
    assert METHODS.keys() <= known | {"sage, tuned"}
    assert method_colour("herding") == method_colour("SCRUB") not in METHODS.values()
    assert len(set(SIDES.values())) == 2


def test_no_figure_has_a_map_of_its_own():
    for path in ROOMS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Dict):
                keys = {key.value for key in node.keys if isinstance(key, ast.Constant)}
                named = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
                assert not (keys & METHODS.keys() and "COLOURS" in named), f"{path}, line {node.lineno}"
