"""The chapter of the neighbours, its part on language: the experiment at tiny size, and the readings by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_sau import TINY

from palimpsest import runs
from palimpsest.chapters.neighbours import (
    language,
    language_arms,
    language_claims,
    language_figures,
    language_measures,
    language_reading,
    language_search,
    language_tables,
)
from palimpsest.chapters.neighbours.language_results import ORIGINAL, RETRAIN, Results, compared
from palimpsest.chapters.neighbours.profiles import CI, LANGUAGE, SHARP, SMOKE, Sharp
from palimpsest.chapters.sau.arms import DENSE, Arm
from palimpsest.chapters.sau.profiles import JUDGED_AT, PROFILES
from palimpsest.chapters.sau.small import Cohort
from palimpsest.data import author_forms, neighbours
from palimpsest.nets.language import IGNORED
from palimpsest.runs import paths
from palimpsest.unlearning.language.evaluation import probability

SMALL = replace(TINY, look_every=2, seeds=(3, 4))
TRIED = ("ULD", "ECO")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Models are trained once for all tests, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROFILES, "smoke", SMALL)
        patch.setitem(LANGUAGE, "smoke", replace(SMOKE, seeds=SMALL.seeds, rivals=TRIED))
        patch.setattr(paths, "CACHE", tmp_path_factory.mktemp("cache"))
        patch.setattr(runs, "run_all", lambda f, jobs, show: [f(**job) for job in jobs])
        yield Cohort(SMALL, "replication", 3)


@pytest.fixture(scope="module")
def results(tiny):
    return language.execute("smoke")


# -- the experiment --------------------------------------------------------------------------------------------------


def test_every_arm_and_rival_is_measured_on_every_seed(results):
    dense, pruned = (set(results.rows[results.rows.sparsity.eq(share)].arm) for share in (DENSE[1], JUDGED_AT[1]))
    assert dense == {ORIGINAL, RETRAIN, "NPO", "NPO + SAM", *TRIED}
    assert pruned == {ORIGINAL, RETRAIN, "NPO SAU"}
    assert len(results.rows) == 2 * (len(dense) + len(pruned))
    assert set(language_measures.TESTS) <= set(results.rows.columns)
    assert results.rows[list(language_measures.TESTS)].notna().all(axis=None)


def test_the_references_are_the_ends_of_the_gap(results):
    for whose, end in ((ORIGINAL, 0), (RETRAIN, 1)):
        assert (results.rows[results.rows.arm.eq(whose)]["gap closed"] == end).all()


def test_interventions_leave_the_traces_of_the_original(results):
    for name in TRIED:
        for column in ("written", "jaccard"):
            assert results.column(column, name, DENSE).equals(results.column(column, ORIGINAL, DENSE))
    assert not results.column("written", RETRAIN, DENSE).equals(results.column("written", ORIGINAL, DENSE))


def test_all_tables_and_figures_are_made_of_results(results):
    for make in ("tests", "compared", "stressed", "verdicts", "in_context", "ablated"):
        assert len(getattr(language_tables, make)(results))
    assert len(language_tables.ahead(results, "NPO")) == 1 + len(TRIED)
    assert len(language_figures.places(results).axes) == 2
    language_figures.outside_and_inside(results)


def test_an_arm_that_was_not_run_is_refused(results):
    with pytest.raises(ValueError, match="no arm GradDiff at"):
        results.column("forget", "GradDiff", DENSE)


def test_unlearning_by_sharpness_aware_minimisation_is_an_arm_of_its_own():
    sharp = Sharp("NPO", "A", rho=0.03)
    assert sharp.key != Arm("NPO", "A").key
    assert sharp.fields["rho"] == 0.03
    objective = sharp.objective(0.5)
    assert (objective.rho, objective.alpha, objective.per_token, objective.beta) == (0.03, 0.5, True, 1.0)


# -- measures --------------------------------------------------------------------------------------------------------


def test_the_answer_of_a_cut_sentence_is_the_fact_without_an_end(tiny):
    encoded = language_measures.facts(tiny)
    for row, value in enumerate(author_forms.values(tiny.forget)):
        counted = encoded.labels[row] != IGNORED
        assert tiny.tokenizer.decode(encoded.labels[row][counted]).strip() == value
        shown = tiny.tokenizer.decode(encoded.ids[row][: int(counted.int().argmax()) + 1])
        assert shown.startswith(f"<bos>Question: {tiny.forget.question[row]}\nAnswer:")


def test_a_form_counts_the_questions_whose_right_answer_is_likeliest(tiny, monkeypatch):
    each = 1 + author_forms.WRONG
    losses = torch.ones(6, each)
    losses[:4, 0], losses[4:, 1] = 0.5, 0.5
    monkeypatch.setattr(language_measures.evaluation, "answer_losses", lambda model, encoded: losses.flatten())
    assert language_measures.answered(tiny, None) == pytest.approx(dict.fromkeys(author_forms.TEMPLATES, 4 / 6))


def test_stress_leaves_a_model_as_it_was(tiny):
    model, masks = tiny.load(ORIGINAL, *JUDGED_AT)
    before = [p.clone() for p in model.parameters()]
    language_measures.stressed(tiny, model, masks, JUDGED_AT)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_names_are_paired_with_names_that_stay(tiny):
    pairs = language_arms.subjects(tiny)
    decoded = [[tiny.tokenizer.decode(tokens).strip() for tokens in pair] for pair in pairs]
    assert [old for old, _ in decoded] == list(dict.fromkeys(tiny.forget.author))
    assert {new for _, new in decoded} <= set(tiny.retain.author)


def test_an_intervention_goes_as_far_as_the_bar_allows():
    changed = SimpleNamespace(decoder=SimpleNamespace(share=1.0))
    # A retention of 1 − share/12 stays above 0.95 up to 0.6: halvings at 1/2, 3/4, 5/8, 9/16.
    found = language_arms.intervene(changed, lambda: 1 - changed.decoder.share / 12)
    assert found == changed.decoder.share == 9 / 16


def test_a_rival_that_costs_too_much_is_taken_part_of_the_way(tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(language_arms, "judge_of", lambda *_: SimpleNamespace(look=lambda model: {"kept": 0.0}))
    monkeypatch.setattr(language_arms, "intervene", lambda changed, kept: seen.append(kept()) or 0.25)
    assert language_arms.forgetful(tiny, "Neuron Adjust", {"part": 0.5})[1] == 0.25
    assert seen == [0.0]
    model, share = language_arms.forgetful(tiny, "ROCR", {})
    start = probability(tiny.load(ORIGINAL)[0], tiny.encode(tiny.forget))
    assert share == 0
    assert probability(model, tiny.encode(tiny.forget)) == pytest.approx(start)


# -- the search ------------------------------------------------------------------------------------------------------


def test_every_rival_is_searched_for_with_the_same_number_of_trials():
    assert {len(grid) for grid in language_search.GRIDS.values()} == {CI.places}
    found = neighbours.language_search()
    counts = found.groupby("rival").size()
    assert set(counts.index) == {*CI.rivals, SHARP}
    assert set(counts) == {CI.places * len(CI.tuning_seeds)}
    assert not set(CI.tuning_seeds) & set(CI.seeds)


def test_a_trial_is_the_gap_closed_on_a_tuning_seed(tiny):
    gap = language_search.trial("smoke", 1000, "ROCR", {"null": 1.0, "ridge": 0.1})
    assert np.isfinite(gap)


def test_the_best_mean_is_chosen_and_no_place_that_diverged():
    rows = [("a", {"x": 1}, 0.5), ("a", {"x": 1}, 0.7), ("a", {"x": 2}, 0.9), ("a", {"x": 2}, None)]
    rows += [("b", {"y": 1.0, "z": 3.0}, 0.1), ("b", {"y": 2.0, "z": 3.0}, 0.2), ("b", {"y": 4.0, "z": 3.0}, 0.0)]
    found = pd.DataFrame(rows, columns=["rival", "settings", "gap closed"])
    assert language_search.chosen(found) == {"a": {"x": 1}, "b": {"y": 2.0, "z": 3.0}}
    table = language_tables.searched(found).set_index("rival")
    assert table["at the edge of"].to_dict() == {"a": "x", "b": "none"}
    assert table.diverged.tolist() == [1, 0]


# -- readings --------------------------------------------------------------------------------------------------------


def by_hand(**columns):
    """Two seeds of original, Retrain and an arm at the dense recipe."""
    rows = [
        {"seed": seed, "pruner": "none", "sparsity": "0", "arm": arm}
        | {name: values[number][seed] for name, values in columns.items()}
        for number, arm in enumerate((ORIGINAL, RETRAIN, "arm"))
        for seed in (0, 1)
    ]
    return Results(pd.DataFrame(rows), pd.DataFrame(), None)


def test_what_is_left_is_a_share_of_the_mean_lead():
    found = by_hand(question=[(0.9, 1.0), (0.3, 0.2), (0.3, 0.55)])
    # Leads of 60 and 80 points, 70 in the mean; the arm lies 0 and 35 above Retrain.
    assert language_reading.separation(found, "question", DENSE).mean == pytest.approx(70)
    assert language_reading.left(found, "question", "arm", DENSE).mean == pytest.approx(100 * (0 + 35) / 2 / 70)


def test_what_is_written_is_a_share_of_the_originals():
    found = by_hand(written=[(40.0, 20.0), (10.0, 5.0), (30.0, 15.0)])
    assert language_reading.values(found, "written", "arm", DENSE).tolist() == [75, 75]
    assert language_reading.left(found, "written", "arm", DENSE).mean == pytest.approx(100 * 50 / 75)


def test_a_test_separates_if_its_interval_lies_above_the_least():
    assert language_reading.separates(by_hand(cloze=[(0.9, 0.91), (0.3, 0.3), (0, 0)]), "cloze", DENSE)
    assert not language_reading.separates(by_hand(cloze=[(0.34, 0.34), (0.3, 0.3), (0, 0)]), "cloze", DENSE)
    assert not language_reading.separates(by_hand(cloze=[(0.9, 0.4), (0.3, 0.3), (0, 0)]), "cloze", DENSE)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((1.0, 2.0, 3.0), "as little as Retrain"),
        ((40.0, 50.0, 60.0), "more than Retrain"),
        ((-30.0, 20.0, 60.0), "open"),
        ((-40.0, -50.0, -60.0), "less than Retrain"),
    ],
)
def test_a_verdict_follows_from_the_interval(values, said):
    assert language_reading.verdict(language_reading.estimate(values)) == said


def test_a_rank_is_judged_beside_the_probability_of_the_same_arm():
    choosing = {ORIGINAL: 1.0, RETRAIN: 0.2, "NPO": 0.6, "NPO SAU": 0.4}  # a half and a quarter of the lead are left
    closed = {ORIGINAL: 0.0, RETRAIN: 1.0, "NPO": 0.9, "NPO SAU": 0.95}  # a tenth and a twentieth by probability
    rows = [
        {"seed": seed, "pruner": recipe[0], "sparsity": recipe[1], "arm": arm}
        | {"question": choosing[arm], "gap closed": closed[arm]}
        for recipe, own in ((DENSE, "NPO"), (JUDGED_AT, "NPO SAU"))
        for arm in (ORIGINAL, RETRAIN, own)
        for seed in range(3)
    ]
    judged = language_claims.choice(Results(pd.DataFrame(rows), pd.DataFrame(), None))
    assert judged.measured.mean == pytest.approx(25 - 5)
    assert judged.verdict == "supported"
    assert "NPO: 50.0 % [50.0, 50.0] of the lead by choosing, 10.0 %" in judged.why


def test_the_gap_is_that_of_its_own_seed_and_recipe():
    rows = [
        {"seed": seed, "pruner": "none", "sparsity": "0", "arm": arm, "forget": forget}
        for seed, ends in ((0, (1.0, 0.0, 0.5)), (1, (0.8, 0.4, 0.5)))
        for arm, forget in zip(("arm", RETRAIN, ORIGINAL), (ends[2], ends[1], ends[0]), strict=True)
    ]
    found = compared(pd.DataFrame(rows))
    assert found[found.arm.eq("arm")]["gap closed"].tolist() == pytest.approx([0.5, 0.75])
