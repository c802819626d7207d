"""Tables and figures of the unlearning chapters on made-up results in which the answer is known."""

import numpy as np
import pandas as pd
import pytest

from palimpsest.chapters.unlearning_quantised import figures, tables
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


def results() -> Results:
    own, rows = np.random.default_rng(0), []
    for seed in SEEDS:
        levels = {m: dict(zip(tables.MEASURES, v + own.normal(0, 0.002, 4), strict=True)) for m, v in LEVELS.items()}
        for method, row in levels.items():
            where = {"method": method, "seed": seed, "precision": "W4A4", "forget_set": "random 10 %", "value": 0.03}
            rows.append({**where, **row, "gap": avg_gap(row, levels["retrain"])})
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
    tuning = pd.DataFrame(
        [
            {"precision": "W4A4", "method": m, "value": v, "gap": 5.0 if v < 0.2 else None}
            for m in ("a", "b")
            for v in (0.1, 0.3)
        ]
    )
    return Results(tuning, pd.DataFrame(rows), pd.DataFrame(log), {("W4A4", "a"): 0.3, ("W4A4", "b"): 0.1})


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


def test_recorded_rows_stand_beside_those_of_the_page():
    found = results()
    recorded = found.rows[found.rows.method.isin(["good", "retrain"])].assign(FA=0.25, value=0.1)
    elsewhere = recorded.assign(precision="float", FA=1.0)
    table = tables.beside_recorded(found, pd.concat([recorded, elsewhere]), ("recorded", "ci"))
    assert list(table.method) == ["retrain", "good"]
    row = table.set_index("method").loc["good"]
    assert row["FA, recorded"] == 25
    assert row["FA, ci"] == pytest.approx(81, abs=0.3)
    assert (row["value, recorded"], row["value, ci"]) == (0.1, 0.03)


def test_adaptive_weights_by_epoch():
    where = {"precision": "W4A4", "forget_set": "random 10 %", "value": 0.03}
    rows = [
        {**where, "method": "OEU", "weight_f": []},
        {**where, "method": "Q-MUL", "weight_f": [0.1, 0.5]},
        {**where, "method": "Q-MUL", "weight_f": [0.2, 0.7]},
        {**where, "method": "Q-MUL", "precision": "float", "weight_f": [0.9, 0.9]},
    ]
    (row,) = tables.weights_by_epoch(pd.DataFrame(rows)).to_dict("records")
    assert row == {"method": "Q-MUL", "value": 0.03, "w_f, epoch 1": 0.15, "w_f, epoch 2": 0.6}


def test_tuning_as_plain_rows():
    rows = results().tuned
    assert rows[0] == {"precision": "W4A4", "method": "a", "value": 0.1, "gap": 5.0}
    assert rows[1]["gap"] is None, "a run that diverged"
    assert len(rows) == 4


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
