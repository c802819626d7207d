"""The tables of SAU, from rows written by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from palimpsest.chapters.sau import tables
from palimpsest.chapters.sau.arms import DENSE, KEYS
from palimpsest.chapters.sau.profiles import JUDGED_AT, MAIN


def test_runs_on_one_fact_stand_side_by_side():
    def model(p, forgotten):
        return {
            "forget": p,
            "held_out": 0.5,
            "answers": {"forget": {"Who?": forgotten}, "held_out": {"Where?": "Here."}},
        }

    looped = "and so on " * 40
    one = {"before": model(0.9, "Me."), "pruned": model(0.8, "You."), "after": model(0.1, looped)}
    reports = {"one": one, "two": one | {"after": model(0.12345, "No.")}}
    table = tables.fact_answers(reports)
    assert table.columns.tolist() == ["set", "question", "before", "pruned only", "one", "two"]
    assert table.iloc[1].tolist() == ["held out", "Where?", *["Here."] * 4]
    assert table.iloc[0][["before", "pruned only", "two"]].tolist() == ["Me.", "You.", "No."]
    assert looped.startswith(table.one[0].removesuffix(" …"))
    assert 90 < len(table.one[0]) <= 110
    known = tables.fact_probabilities(reports)
    assert known.model.tolist() == ["before", "pruned", "one", "two"]
    assert known.forget.tolist() == [0.9, 0.8, 0.1, 0.123]
    assert known["held out"].tolist() == [0.5] * 4


def test_the_interval_of_a_gap_resamples_questions_and_holds_the_models_together():
    """Where every question closes half of its own gap, every resample closes half."""
    generator = np.random.default_rng(0)
    target, oracle = generator.uniform(0.8, 1, 40), generator.uniform(0, 0.3, 40)
    half = (target + oracle) / 2
    assert tables.share(target, half, target, oracle, 199) == pytest.approx((50, 50, 50))
    assert tables.share(half, oracle, target, oracle, 199) == pytest.approx((50, 50, 50))
    assert tables.share(half, target, target, oracle, 199) == pytest.approx((-50, -50, -50))
    some = np.where(np.arange(40) < 20, target, oracle)
    value, low, high = tables.share(target, some, target, oracle, 199)
    assert 25 < low < value < high < 75
    assert value == pytest.approx(100 * (target - oracle)[20:].sum() / (target - oracle).sum())


def test_an_arm_is_set_against_the_masked_one_of_its_own_loss():
    """Probabilities that are alike for all questions: target 1, oracle 0."""
    left = {("none", "target"): 1.0, ("none", "oracle"): 0.0}
    left |= {("NPO", "D wanda"): 0.5, ("GradDiff", "D wanda"): 0.4, ("NPO", "C"): 0.6, ("GradDiff", "C"): 0.3}
    same = {"pruner": "wanda", "sparsity": "0.3", "seed": 0}
    same |= {"forget_2": 0.5, "taken": 1.0, "factor": None, "non-zero": 0}
    kept = {f"{name} kept": 1.0 for name in ("retain", "real_authors", "world_facts")}
    table = pd.DataFrame(
        [
            {"loss": loss, "kind": kind, "forget": p, "forget each": [p] * 4, **same, **kept}
            for (loss, kind), p in left.items()
        ]
    )
    arms = tables.arms(table, resamples=9)
    assert arms["gap closed"].tolist() == pytest.approx([50, 40, 60, 70])
    assert arms.ahead.dropna().tolist() == pytest.approx([10, -10])


def test_facts_that_broke_are_named():
    def model(capital, river):
        return {
            "answers": {"forget": {"What is the capital of Peru?": capital}, "held_out": {"Where is Rome?": river}}
        }

    before = model("The capital of Peru is Lima.", "In Italy.")
    pruned = model("The Capital of Peru.", "Italy, of course.")
    after = model("It is Quito.", "Rome is in Rome.")
    questions = {"question": ["What is the capital of Peru?"], "answer": ["The capital of Peru is Lima."]}
    other = {"question": ["Where is Rome?", "Not asked?"], "answer": ["Rome is in Italy.", "No."]}
    known = {"forget": SimpleNamespace(**questions), "held_out": SimpleNamespace(**other)}
    table = tables.facts_broken({"run": {"before": before, "pruned": pruned, "after": after}}, known)
    found = table.set_index(["set", "model"])
    assert found.right.tolist() == ["1 of 1", "0 of 1", "0 of 1", "1 of 1", "1 of 1", "0 of 1"]
    assert found["lost since before"].tolist() == ["", "Lima", "Lima", "", "", "Italy"]


def trials(**gaps) -> pd.DataFrame:
    """Two places of each arm: the first closes what is given on two seeds, the second half of it."""
    rows = []
    for kind, (low, high) in gaps.items():
        recipe = DENSE if kind == "A" else JUDGED_AT
        for lr, share in ((1e-3, 1.0), (2e-3, 0.5)):
            for seed, gap in enumerate((low, high)):
                key = dict(zip(KEYS, (MAIN, kind.replace("_", " "), *recipe), strict=True))
                rows.append(key | {"lr": lr, "alpha": 2.0, "seed": seed, "gap closed": share * gap})
    return pd.DataFrame(rows)


def test_the_table_of_the_search_tells_what_was_chosen_and_how_far_it_went():
    table = tables.searched(trials(A=(0.8, 0.9), C=(0.5, 0.7)))
    assert table["update"].tolist() == ["U→P", "P→U, masked"]
    assert table["step size"].tolist() == ["0.001"] * 2
    assert table["gap closed, %"].tolist() == ["85.0 ± 7.1", "60.0 ± 14.1"]
    assert table.trials.tolist() == [2, 2]
    found = tables.losses(trials(A=(0.8, 0.9), C=(0.5, 0.7), D_wanda=(0.6, 0.6)))
    assert found.columns.tolist() == ["loss", "dense", "SAU"]
    assert found.SAU.tolist() == ["60.0 % [60.0, 60.0]"]


def test_a_dip_on_the_way_is_counted_and_what_was_forgotten_before_it():
    def run(seed, dip, *forget):
        course = [{"forget": p, "kept": 1.0} for p in forget]
        return dict(zip(KEYS, (MAIN, "C", *JUDGED_AT), strict=True)) | {"seed": seed, "dip": dip, "course": course}

    rows = pd.DataFrame([run(0, 2.0, 1.0, 0.75, 0.5), run(1, None, 1.0, 0.4), run(2, 1.0, 1.0, 0.2)])
    table = tables.dips(rows.assign(**{"gap closed": 0.9})).iloc[0]
    assert table[["runs", "below the bar on the way"]].tolist() == [3, 2]
    assert table["forgotten before, % of the start"] == "12"  # a quarter, and nothing
    assert table["gap closed where taken, %"] == "90"


def test_the_table_of_sizes_sets_the_study_beside_the_paper():
    shown = tables.sizes("study").set_index("what")
    assert shown.loc["layers that train and forget"].tolist() == ["all", "all"]
    assert shown.loc["questions to forget"].tolist() == ["400", "200"]
    assert shown.loc["losses"].tolist() == ["GradDiff, NPO, SimNPO, RMU", "NPO, GradDiff, SimNPO"]
