"""The tables of who competes: every arm has a line, every source an entry, and the page can read them."""

import re

import pandas as pd
import pytest

from palimpsest.chapters.jscds import competitors as jscds
from palimpsest.chapters.jscds import experiment
from palimpsest.chapters.jscds.cohort import METHODS as SELECTIONS
from palimpsest.chapters.sage import competitors as sage
from palimpsest.chapters.sage.arms import POLICIES, WITHOUT_MODEL
from palimpsest.chapters.sau import competitors as sau
from palimpsest.chapters.sau.arms import LOSSES
from palimpsest.chapters.sau.profiles import PROFILES
from palimpsest.chapters.shared.competitors import Competitor, table
from palimpsest.chapters.unlearning_quantised import competitors as unlearning
from palimpsest.chapters.unlearning_quantised.arms import METHODS, QUIRKED, REFERENCES
from palimpsest.runs.paths import ROOT

CI = PROFILES["ci"]
KINDS = {arm.kind for arm in (*CI.arms, *CI.rivals, *CI.asides)}
PRUNERS = {pruner for pruner, _ in CI.recipes}
ROOMS = {
    "sau": (sau.COMPETITORS, KINDS | LOSSES.keys() | PRUNERS),
    "unlearning": (unlearning.COMPETITORS, {*REFERENCES, *METHODS, *QUIRKED}),
    "jscds": (jscds.COMPETITORS, {*SELECTIONS, experiment.FULL.method, experiment.AGAIN.method}),
    "sage": (sage.COMPETITORS, {*POLICIES, *WITHOUT_MODEL}),
}


@pytest.mark.parametrize("room", ROOMS)
def test_every_arm_has_a_line_and_every_line_an_arm(room):
    known, arms = ROOMS[room]
    assert known.keys() == arms


@pytest.mark.parametrize("room", ROOMS)
def test_lines_fit_a_table_and_sources_are_in_the_bibliography(room):
    keys = set(re.findall(r"^@\w+\{([^,]+),", (ROOT / "book" / "references.bib").read_text("utf-8"), re.MULTILINE))
    for competitor in ROOMS[room][0].values():
        assert "|" not in competitor.line
        assert "\n" not in competitor.line
        assert set(filter(None, competitor.cite.split(","))) <= keys


def test_a_table_names_what_was_run_with_its_source_and_its_counts():
    known = {"a": Competitor("does this", "key2020"), "b": Competitor("does that"), "c": Competitor("was not run")}
    counted = pd.DataFrame({"steps": {"b": 32.0}})
    assert table(known, ["b", "a"], {"a": "Method A"}, counted).data.splitlines() == [
        "| arm | what it does | source | steps |",
        "| --- | --- | --- | --- |",
        "| Method A | does this | {cite:t}`key2020` | – |",
        "| b | does that | – | 32 |",
    ]


def test_an_arm_without_a_line_is_refused():
    with pytest.raises(ValueError, match=r"run: got \['new'\], want arms that have a line: \['a'\]"):
        table({"a": Competitor("does this")}, ["a", "new"])
