"""The tables and the figure of SAU on a real model, from rows written by hand."""

import numpy as np
import pandas as pd
import pytest

from palimpsest.chapters.sau import figures, tables
from palimpsest.chapters.sau.arms import DENSE


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
    assert table.columns.tolist() == ["set", "question", "before", "one", "two"]
    assert table.iloc[1].tolist() == ["held out", "Where?", "Here.", "Here.", "Here."]
    assert table.iloc[0][["before", "two"]].tolist() == ["Me.", "No."]
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


def test_an_arm_is_set_against_the_masked_one_of_its_own_loss_in_table_and_figure():
    """Probabilities that are alike for all questions: target 1, oracle 0."""
    left = {("none", "target"): 1.0, ("none", "oracle"): 0.0}
    left |= {("NPO", "D wanda"): 0.5, ("GradDiff", "D wanda"): 0.4, ("NPO", "C"): 0.6, ("GradDiff", "C"): 0.3}
    same = {
        "pruner": "wanda",
        "sparsity": "0.3",
        "seed": 0,
        "forget_2": 0.5,
        "epochs": 1.0,
        "factor": None,
        "non-zero": 0,
    }
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
    axis = figures.recorded(arms).axes[1]
    for i, (loss, ahead) in enumerate((("NPO", 10), ("GradDiff", -10))):
        points = axis.containers[i]
        assert points.get_label() == loss
        assert points.lines[0].get_xydata()[0] == pytest.approx((ahead, -0.3 * i))


def test_the_table_of_step_sizes_marks_the_edges_of_the_grid():
    found = [
        {"loss": "NPO", "kind": kind, "pruner": pruner, "sparsity": sparsity, "lr": lr}
        for kind, (pruner, sparsity), lr in (
            ("A", DENSE, 1e-4),
            ("C", ("wanda", "0.3"), 3e-4),
            ("D wanda", ("wanda", "0.3"), 1e-3),
        )
    ]
    table = tables.tuned(found, (3e-4, 1e-3, 1e-4))
    assert table["update"].tolist() == ["all weights", "P→U, masked", "SAU"]
    assert table["edge of the grid"].tolist() == ["lower", "no", "upper"]


def test_the_table_of_sizes_shows_what_is_shortened():
    shown = tables.sizes("study").set_index("what")
    assert shown.loc["layers that train and forget"].tolist() == ["all", "the last 4"]
    assert shown.loc["questions that the target learns"].tolist() == ["3600", "120"]
    assert shown.loc["losses"].tolist() == ["NPO, GradDiff, SimNPO", "NPO, GradDiff"]
    assert shown.loc["updates", "study"] == "U→P; P→U, all weights; P→U, masked; SAU"
