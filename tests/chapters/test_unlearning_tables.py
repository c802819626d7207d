"""Tables and figures of the unlearning chapters on made-up results in which the answer is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from palimpsest.chapters.unlearning_quantised import figures, tables
from palimpsest.chapters.unlearning_quantised.arms import PLACEBO
from palimpsest.chapters.unlearning_quantised.experiment import Results
from palimpsest.metrics.distances import avg_gap

SEEDS = range(5)
LEVELS = {  # FA, RA, TA, MIA as shares
    "retrain": (0.80, 0.99, 0.75, 0.30),
    "fine-tune": (0.88, 0.95, 0.75, 0.20),
    "good": (0.81, 0.99, 0.75, 0.29),
    "remembers": (1.00, 0.99, 0.75, 0.20),
    "damages": (0.84, 0.60, 0.75, 0.20),
    "alike": (0.88, 0.95, 0.75, 0.20),
}
REST = dict.fromkeys(("entropy", "sure", "loss_auc", "mentropy_auc", "cka"), 0.5)


def results() -> Results:
    own, rows = np.random.default_rng(0), []
    for seed in SEEDS:
        levels = {m: dict(zip(tables.MEASURES, v + own.normal(0, 0.002, 4), strict=True)) for m, v in LEVELS.items()}
        for method, row in levels.items():
            where = {"method": method, "seed": seed, "precision": "W4A4", "forget_set": "random 10 %", "value": 0.03}
            given = {"steps": 20, "backward": 500, "rte": 0.25, "diverged": False, "codes_changed": None} | REST
            rows.append({**where, **given, **row, "gap": avg_gap(row, levels["retrain"])})
    log = [
        {"method": m, "precision": p, "forget_set": f, "step": step}
        for step, (m, p, f) in enumerate(
            [
                ("OEU", "W4A4", "random 10 %"),
                ("OEU", "float", "random 10 %"),
                ("Q-MUL", "W4A4", "random 10 %"),
                ("OEU", "W4A4", "one class"),
                ("OEU", "W4A4", "random 10 %"),
            ]
        )
    ]
    tried = pd.DataFrame(
        [
            {"precision": "W4A4", "forget_set": "random 10 %", "method": m, "value": v, "seed": seed}
            | {"tuning_gap": 5.0 + seed if v < 0.2 or seed else None}
            for m in ("a", "b")
            for v in (0.1, 0.3)
            for seed in (0, 1)
        ]
    )
    values = {("W4A4", "a"): {0: 0.3, 1: 0.1}, ("W4A4", "b"): {0: 0.1, 1: 0.1}}
    return Results(tried, pd.DataFrame(rows), pd.DataFrame(log), values, tuned_on=1)


def test_differences_from_fine_tuning_add_up_and_carry_their_reason():
    found = results()
    table = tables.beside_fine_tuning(found, ["good", "remembers", "damages", "alike"]).set_index("method")
    assert table["to Retrain"].to_dict() == {
        "good": "nearer",
        "remembers": "farther",
        "damages": "farther",
        "alike": "not told apart",
    }
    assert table["why not nearer"]["good"] == ""
    assert table["why not nearer"]["remembers"] == "FA 100 %, Retrain 80 %: it still remembers"
    assert table["why not nearer"]["damages"] == "RA 60 %, Retrain 99 %: it damages what is kept"
    # By hand, of the levels: (|1 - .8| - |.88 - .8|) / 4 = 3 points, and the retain set is nearer by one.
    assert table["by FA"]["remembers"] == pytest.approx(3, abs=0.11)
    assert table["by RA"]["remembers"] == pytest.approx(-1, abs=0.11)
    for method, row in table.iterrows():
        difference = (found.column("gap", method) - found.column("gap", "fine-tune")).mean()
        parts = sum(row[f"by {name}"] for name in tables.MEASURES)
        assert parts == pytest.approx(difference, abs=4 * 0.05 + 1e-9), "four numbers rounded to a tenth"
    assert table.index[0] == "good"
    # Nearer on average, by less than the seeds vary.
    unsure = found.rows.method == "good"
    found.rows.loc[unsure, "gap"] += [9.0, 0.0, 9.0, 0.0, 0.0]
    row = tables.beside_fine_tuning(found, ["good"]).iloc[0]
    assert (row["to Retrain"], row["why not nearer"]) == ("not told apart", "it gains less than the seeds vary")


def test_the_table_of_methods_has_what_each_was_given():
    found = results()
    found.rows.loc[found.rows.method == "good", "value"] = [0.1, 0.3, 0.3, 0.1, 0.3]
    gone = (found.rows.method == "alike") & (found.rows.seed == 3)
    found.rows.loc[gone, [*tables.MEASURES, "gap", "steps", "backward"]] = np.nan
    found.rows.loc[gone, "diverged"] = True
    table = tables.method_table(found).set_index("method")
    assert list(table.index[:2]) == ["retrain", "good"]
    row = table.loc["good"]
    assert pytest.approx(81, abs=0.4) == row.FA
    assert (row.steps, row.backward, row.RTE) == (20, 500, 0.25)
    assert row["values"] == "0.1 to 0.3"
    gaps = found.column("gap", "good")
    assert row["avg gap"] == pytest.approx(gaps.mean(), abs=0.05)
    # Student's t of four degrees of freedom: 2.776.
    assert row["±"] == pytest.approx(2.776 * gaps.std() / 5**0.5, abs=0.05)
    assert table.loc["fine-tune", "values"] == "0.03"
    assert table.diverged.to_dict() == dict.fromkeys(LEVELS, 0) | {"alike": 1}
    assert table.loc["alike", "FA"] == pytest.approx(88, abs=0.4), "over the runs that did not diverge"


def test_the_table_of_tuning_counts_how_often_a_value_was_chosen():
    table = tables.tuning_table(results()).set_index("method")
    assert table.loc["a", "value 1"] == "0.1: 5.5 ± 0.7 (1)"
    assert table.loc["a", "value 2"] == "0.3: diverged (1)"
    assert table.loc["b", "value 1"] == "0.1: 5.5 ± 0.7 (2)"
    assert table.loc["b", "value 2"] == "0.3: diverged (0)"


def test_the_floor_is_what_chance_does():
    found = results()
    rows = found.rows[found.rows.method == "good"]
    first, second, again = (rows.assign(method=name) for name in (*PLACEBO, "retrain again"))
    first["FA"] += 0.02
    first["gap"] += [1.0, 2.0, 3.0, 2.0, 1.0]
    again["FA"] = found.rows.FA[found.rows.method == "retrain"].to_numpy()
    again["FA"] += [0.03, -0.03, 0.03, -0.03, 0.03]
    found = replace(found, rows=pd.concat([found.rows, first, second, again], ignore_index=True))
    table = tables.floor_table(found).set_index("measure")
    of_placebo, of_retrain = table.columns
    assert table.loc["FA", of_placebo].startswith("+2.0 points [")
    assert table.loc["avg gap", of_placebo].startswith("+1.8 points [")
    assert table.loc["RA", of_placebo].startswith("+0.0 points [")
    assert table.loc["FA", of_retrain] == "3.0 points [3.0, 3.0]"
    assert table.loc["avg gap", of_retrain].startswith(f"{rows.gap.mean():.1f} points [")
    assert list(table.index) == ["avg gap", *tables.MEASURES]


def test_tuning_as_plain_rows():
    rows = results().tuned
    assert rows[0] == {
        **{"precision": "W4A4", "forget_set": "random 10 %", "method": "a", "value": 0.1, "seed": 0},
        **{"tuning_gap": 5.0},
    }
    assert rows[2]["tuning_gap"] is None, "a run that diverged"
    assert len(rows) == 8


def test_the_log_of_one_condition():
    assert results().logged("OEU").step.tolist() == [0, 4]
    assert results().logged("OEU", "float").step.tolist() == [1]
    assert results().logged("OEU", forget_set="one class").step.tolist() == [3]
    assert results().logged("SalUn").empty


def test_labels_keep_clear_of_points_and_of_each_other():
    points = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0], [100.0, 50.0], [101.0, 50.0]])
    labels = points + figures.free_spots(points, radii=(9, 16, 24), room=7)
    everything = np.concatenate([points, labels])
    apart = np.linalg.norm(labels[:, None] - everything[None], axis=2)
    apart[np.arange(5), 5 + np.arange(5)] = np.inf
    assert apart.min() >= 7
    # With room to spare the nearest spot is taken, off the axes along which intervals are drawn.
    alone = figures.free_spots(points[:1])
    assert np.linalg.norm(alone) == pytest.approx(9)
    assert abs(alone).min() > 6


def test_the_plane_numbers_every_method_from_the_smallest_gap():
    figure = figures.plane(results())
    numbers = [text.get_text() for text in figure.axes[0].texts]
    assert numbers == [str(i) for i in range(len(LEVELS))]
    key = [text.get_text() for text in figure.legends[0].get_texts()]
    assert key[:2] == ["0  retrain", "1  good"]
