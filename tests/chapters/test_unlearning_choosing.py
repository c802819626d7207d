"""How a value is chosen for each seed, on made-up trials in which the answer is known."""

import pandas as pd
import pytest
from unlearning_tables import made_up

from palimpsest.chapters.unlearning_quantised import experiment
from palimpsest.chapters.unlearning_quantised.arms import CONSTANTS

# Choosing.


def tried(rows: dict, method: str = "a", precision: str = "float") -> pd.DataFrame:
    """{value: [tuning gap of seeds 0, 1, …]} as a table; the gap on test images is ten times the seed, plus value."""
    return pd.DataFrame(
        [
            {
                **{"precision": precision, "method": method, "value": value, "seed": seed, "tuning_gap": gap},
                **{"forget_set": "random 10 %", "gap": 10 * seed + value},
            }
            for value, gaps in rows.items()
            for seed, gap in enumerate(gaps)
        ]
    )


def test_a_seed_takes_what_did_best_on_the_seeds_after_it():
    table = tried({0.1: [1.0, 9.0, 1.0, 1.0], 0.2: [4.0, 4.0, 4.0, 4.0]})
    # On one seed: seed 0 looks at seed 1 alone, and seed 3 at seed 0.
    assert experiment.chosen(table, 1) == {("float", "a"): {0: 0.2, 1: 0.1, 2: 0.1, 3: 0.1}}
    # On two: (9 + 1) / 2 = 5 > 4 for seeds 0 and 3, and never one's own.
    assert experiment.chosen(table, 2) == {("float", "a"): {0: 0.2, 1: 0.1, 2: 0.1, 3: 0.2}}
    # The order of the rows is no matter, and a method's values are its own.
    other = tried({0.3: [1.0] * 4}, "b", "W4A4")
    both = pd.concat([table, other]).sample(frac=1, random_state=0)
    assert experiment.chosen(both, 2) == experiment.chosen(table, 2) | {("W4A4", "b"): dict.fromkeys(range(4), 0.3)}


def test_a_seed_left_out_of_the_tuning_is_passed_over():
    table = tried({0.1: [1.0, 9.0, 1.0, 1.0], 0.2: [4.0, 4.0, 4.0, 4.0]})
    # Seed 0 looks at seed 2 in the place of seed 1, and all keep a value, the one that is left out too.
    for count in (1, 2):
        assert experiment.chosen(table, count, left_out=1) == {("float", "a"): dict.fromkeys(range(4), 0.1)}
    # Of two seeds nothing is left to look at for the other.
    two = tried({0.1: [1.0, 9.0], 0.2: [4.0, 4.0]})
    assert experiment.chosen(two, 1, left_out=1)["float", "a"].keys() == {1}


def test_ties_go_to_the_smaller_value_and_a_value_that_diverged_is_not_taken():
    assert set(experiment.chosen(tried({0.2: [4.0] * 3, 0.1: [4.0] * 3}), 2)["float", "a"].values()) == {0.1}
    table = tried({0.1: [5.0, 5.0, 5.0, 5.0], 0.2: [1.0, None, 1.0, 1.0]})
    # Seeds 0 and 3 see seed 1 diverge at 0.2; seed 1 itself does not look at itself.
    assert experiment.chosen(table, 2) == {("float", "a"): {0: 0.1, 1: 0.2, 2: 0.2, 3: 0.1}}
    assert experiment.chosen(table, 2, left_out=1) == {("float", "a"): dict.fromkeys(range(4), 0.2)}
    # Where every value diverged there is none.
    assert experiment.chosen(tried({0.1: [None, 1.0, 1.0]}), 1) == {("float", "a"): {0: 0.1, 1: 0.1}}
    assert experiment.chosen(tried({0.1: [None, None]}), 1) == {("float", "a"): {}}


def test_results_without_a_seed_have_the_rows_of_the_other_tuning():
    table = tried({0.1: [1.0, 9.0, 1.0, 1.0], 0.2: [4.0, 4.0, 4.0, 4.0]})
    fixed = table[table.value == 0.2].assign(method="retrain")  # was not tuned, nor was the method elsewhere
    elsewhere = table[table.value == 0.2].assign(forget_set="one class", gap=1.0)
    values = experiment.chosen(table, 2)
    rows = pd.concat([fixed, elsewhere, experiment.at_values(table, values)], ignore_index=True)
    results = experiment.Results(table, rows, pd.DataFrame(), values, 2)
    assert results.column("gap", "a", "float").to_dict() == pytest.approx({0: 0.2, 1: 10.1, 2: 20.1, 3: 30.2})
    found = results.without(1)
    assert found.left_out == 1
    assert found.values == {("float", "a"): dict.fromkeys(range(4), 0.1)}
    assert found.column("gap", "a", "float").to_dict() == pytest.approx({0: 0.1, 1: 10.1, 2: 20.1, 3: 30.1})
    for method, forget_set in (("retrain", "random 10 %"), ("a", "one class")):
        before, after = (r.column("gap", method, "float", forget_set) for r in (results, found))
        assert after.equals(before)
    assert len(found.rows) == len(results.rows)
    assert (results.left_out, results.values) == (None, values)


def test_the_best_of_several_methods_is_chosen_with_its_value():
    first = tried({0.1: [2.0, 9.0, 2.0, 2.0], 0.2: [6.0, 3.0, 6.0, 6.0]}, "a", "W4A4")
    second = tried({0.1: [3.0, 3.0, 3.0, 3.0], 0.2: [4.0] * 4}, "b", "W4A4").assign(gap=77.0)
    third = tried({0.1: [0.0] * 4}, "c", "W4A4")
    table = pd.concat([first, second, third], ignore_index=True)
    values = experiment.chosen(table, 1)
    assert values["W4A4", "a"] == {0: 0.2, 1: 0.1, 2: 0.1, 3: 0.1}
    results = experiment.Results(table, experiment.at_values(table, values), pd.DataFrame(), values, 1)
    # Seed 0 ties at 3, others take "a", which has 2 there; "c" was not asked for.
    found = experiment.best_of(results, ("a", "b"))
    assert found.method.to_dict() == {0: "a", 1: "a", 2: "a", 3: "a"}
    assert found.value.to_dict() == values["W4A4", "a"]
    table.loc[(table.method == "b") & (table.seed == 1) & (table.value == 0.1), "tuning_gap"] = 2.9
    found = experiment.best_of(results, ("a", "b"))
    assert found.method.to_dict() == {0: "b", 1: "a", 2: "a", 3: "a"}
    assert found.gap.tolist() == pytest.approx([77.0, 10.1, 20.1, 30.1])
    assert set(CONSTANTS) <= set(made_up().rows.method)
