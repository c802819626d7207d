"""The JSCDS experiment: what is drawn, which arms there are, how step sizes are chosen, and one cohort in small."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from palimpsest import data, runs, selection, training
from palimpsest.chapters.jscds import cohort, experiment, geometry
from palimpsest.chapters.jscds.cohort import (
    CLEAN,
    CONDITIONS,
    METHODS,
    NOISY,
    PROFILES,
    RIVALS,
    Cohort,
    Condition,
    draw,
)
from palimpsest.chapters.jscds.experiment import AGAIN, FULL, HEADLINE, Arm, Results, arms
from palimpsest.runs import paths

SMALL = replace(PROFILES["smoke"], samples=100, validation=20, test=20)


@pytest.fixture
def numbered(monkeypatch) -> data.Dataset:
    """Twelve classes of images whose first two pixels tell their number, so that two draws can be compared."""

    def split(name: str, first: int, count: int) -> data.Split:
        numbers = torch.arange(first, first + count)
        images = torch.zeros(count, 3, 3, dtype=torch.uint8)
        images[:, 0, 0], images[:, 0, 1] = numbers // 256, numbers % 256
        return data.Split(images, numbers % 10, name, (0.5,), (0.5,))

    classes = tuple("abcdefghij")
    made = data.Dataset("numbered", split("train", 0, 500), split("test", 500, 100), classes, "here", "MIT")
    monkeypatch.setattr(cohort, "dataset", lambda name: made)
    cohort.test_split.cache_clear()
    yield made
    cohort.test_split.cache_clear()


def numbers(split: data.Split) -> list[int]:
    return (256 * split.images[:, 0, 0].long() + split.images[:, 0, 1]).tolist()


# Drawing.


@pytest.mark.parametrize("seed", [0, 17])
@pytest.mark.parametrize("condition", list(CONDITIONS))
def test_a_draw_is_balanced_disjoint_and_wrong_exactly_where_it_says(numbered, condition, seed):
    d = draw(SMALL, CONDITIONS[condition], seed)
    assert (len(d.train), len(d.validation)) == (100, 20)
    assert d.train.labels.bincount().tolist() == [10] * 10
    assert d.validation.labels.bincount().tolist() == [2] * 10
    assert len({*numbers(d.train), *numbers(d.validation)}) == 120
    assert torch.equal(d.train.labels, torch.tensor(numbers(d.train)) % 10), "images keep their own labels"
    noise, rate = CONDITIONS[condition].noise, CONDITIONS[condition].rate
    assert torch.equal(d.wrong, d.labels != d.train.labels)
    assert int(d.wrong.sum()) == round(rate * 100)
    if noise == "adjacent":
        assert ((d.labels - d.train.labels).abs() == d.wrong.long()).all()


def test_a_seed_draws_the_same_images_under_every_condition(numbered):
    for seed in (0, 1, 2):
        draws = [draw(SMALL, condition, seed) for condition in CONDITIONS.values()]
        for d in draws[1:]:
            assert numbers(d.train) == numbers(draws[0].train)
            assert numbers(d.validation) == numbers(draws[0].validation)
        again = draw(SMALL, NOISY, seed)
        assert torch.equal(again.labels, draws[list(CONDITIONS.values()).index(NOISY)].labels)
    first, second = (draw(SMALL, CLEAN, seed) for seed in (0, 1))
    assert numbers(first.train) != numbers(second.train)


def test_more_noise_keeps_the_wrong_labels_of_less(numbered):
    low, high = (draw(SMALL, Condition("symmetric", rate), 0) for rate in (0.2, 0.4))
    assert torch.equal(low.labels[low.wrong], high.labels[low.wrong])


def test_the_test_images_are_balanced_and_no_seeds_own(numbered):
    split = cohort.test_split(SMALL)
    assert split.labels.bincount().tolist() == [2] * 10
    assert min(numbers(split)) >= 500


@pytest.mark.parametrize("profile", ["smoke", "ci"])
def test_the_profiles_fit_the_shipped_data(profile):
    setting = PROFILES[profile]
    source = cohort.dataset(setting.dataset)
    classes = len(source.classes)
    for count in (setting.samples, setting.validation, setting.test):
        assert count % classes == 0, "every class is drawn equally often"
    assert setting.samples + setting.validation <= len(source.train)
    assert setting.test <= len(source.test)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_profiles_are_sound(profile):
    setting = PROFILES[profile]
    assert {CLEAN.name, NOISY.name} <= set(setting.conditions) <= set(CONDITIONS)
    assert 1 <= setting.early_epoch <= setting.epochs
    assert setting.scorer_lr in setting.lr_grid, "the scorers are the full set's arms at their step size"
    assert len(set(setting.seeds)) == len(setting.seeds) >= 3, "a replication is tuned on the others"


def test_the_chapters_profile_has_replications_that_no_pilot_used():
    setting = PROFILES["ci"]
    assert len(setting.seeds) >= 10
    assert not set(setting.seeds) & {*range(30, 40), *range(900, 906), 1000}
    assert {CONDITIONS[c].rate for c in setting.conditions} == {0.0, 0.2, 0.4}


# Arms.


@pytest.mark.parametrize("condition", list(CONDITIONS))
def test_every_arm_is_known_once_and_every_condition_has_its_floors(condition):
    found = arms(condition)
    assert len(set(found)) == len(found)
    assert {FULL, AGAIN, HEADLINE, replace(HEADLINE, matched="updates"), Arm("jscds", 0.7)} <= set(found)
    assert {Arm("random"), Arm("random again"), Arm("moderate")} <= set(found)
    for arm in set(found) - {FULL, AGAIN}:
        assert arm.method in METHODS
        assert 0 < arm.fraction < 1
        assert arm.matched in ("epochs", "updates")


def test_all_methods_meet_on_clean_labels():
    halves = {arm.method for arm in arms(CLEAN.name) if arm.fraction == 0.5}
    assert halves == set(METHODS)
    for condition in (CLEAN.name, NOISY.name):
        for method in ("jscds", "random"):
            fractions = {arm.fraction for arm in arms(condition) if arm.method == method}
            assert fractions == {0.3, 0.5, 0.7}


def test_selection_knows_every_method_and_every_rival_is_run():
    for name, way in METHODS.items():
        method = selection.METHODS[way.arguments["method"]]
        assert way.arguments.get("preset", "paper_text") in selection.PRESETS
        assert set(way.arguments) - {"method", "preset"} <= set(method.switches), name
    for name, scorer in (("jscds", "trained"), ("successor code", "fresh_head")):
        preset = selection.PRESETS[METHODS[name].arguments.get("preset", "paper_text")]
        assert (preset.space, preset.scorer) == (METHODS[name].space, scorer)
        assert METHODS[name].scorer == scorer.replace("_", " ")
    assert "full" not in METHODS, "that is the scorer itself"
    assert "random" in RIVALS
    assert not {"random again", "L2 near-mean", "early jscds"} & set(RIVALS)


def test_a_method_registered_in_the_library_is_no_arm_of_the_chapter(monkeypatch):
    before = {condition: arms(condition) for condition in CONDITIONS}
    monkeypatch.setitem(selection.METHODS, "another", selection.METHODS["random"])
    assert "another" in selection.methods()
    assert {condition: arms(condition) for condition in CONDITIONS} == before


def test_equal_updates_are_those_of_the_full_set():
    setting = PROFILES["ci"]
    everything = setting.recipe(0.1).total_steps(setting.samples)
    assert experiment.recipe_of(setting, HEADLINE, 0.1).total_steps(setting.samples // 2) < everything
    updates = experiment.recipe_of(setting, replace(HEADLINE, matched="updates"), 0.1)
    assert updates.total_steps(setting.samples // 2) == everything


# Step sizes.


def tuned(*validation: tuple[float, float], left_out: int | None = None) -> Results:
    """One arm; each replication's validation accuracy at 0.1 and at 0.3. Tested, it scores 1 % at 0.1, 3 % at 0.3."""
    row = {"condition": "clean", "method": "jscds", "fraction": 0.5, "matched": "epochs"}
    rows = [
        {**row, "seed": seed, "lr": lr, "validation": value, "accuracy": lr / 10}
        for seed, values in enumerate(validation)
        for lr, value in zip((0.1, 0.3), values, strict=True)
    ]
    return Results(pd.DataFrame(rows), pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), left_out)


def test_a_replication_is_tuned_on_the_others():
    # Means without 0: 0.45 and 0.5. Without 1 or 2: 0.6 and 0.3 at least. Replication 0 decides for the others.
    results = tuned((0.9, 0.1), (0.5, 0.5), (0.4, 0.5))
    assert results.chosen("jscds").to_dict() == {0: 0.3, 1: 0.1, 2: 0.1}
    assert results.accuracies("jscds").tolist() == pytest.approx([3, 1, 1], rel=1e-12)


def test_a_replication_that_is_left_out_tunes_nobody_and_is_still_judged():
    results = tuned((0.9, 0.1), (0.5, 0.5), (0.4, 0.5), left_out=0)
    assert results.chosen("jscds").to_dict() == {0: 0.3, 1: 0.3, 2: 0.1}  # 2: a tie, by replication 1 alone


def test_ties_go_to_the_smaller_step_size():
    assert tuned((0.5, 0.5), (0.5, 0.5), (0.5, 0.5)).chosen("jscds").tolist() == [0.1] * 3


# Geometry.


def test_overlap_by_hand():
    a, b = torch.tensor([0, 1, 2, 3]), torch.tensor([2, 3, 4, 5])
    assert geometry.overlap(a, b) == 0.5
    assert geometry.overlap(a, a.flip(0)) == 1.0
    assert geometry.overlap(a, b + 10) == 0.0


def test_rank_correlation_by_hand():
    labels = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1])
    a = torch.tensor([1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0])
    # Class 0 in the same order whatever the values; class 1 with ranks 2 1 4 3: 1 - 6·4/(4·15) = 0.6.
    b = torch.tensor([1.0, 20.0, 10.0, 10.0, 100.0, 40.0, 1000.0, 30.0])
    assert geometry.rank_correlation(a, b, labels) == pytest.approx((1 + 0.6) / 2, rel=1e-12)
    assert geometry.rank_correlation(a, -a, labels) == pytest.approx(-1, rel=1e-12)


def test_the_expansion_is_what_is_left_of_j_near_the_centre():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    near = 1e-3 * torch.randn(40, 6, generator=generator, dtype=torch.float64)
    j = selection.divergence_to_centre(near, labels)
    torch.testing.assert_close(geometry.expansion(near, labels), j, rtol=0.02, atol=0)
    far = geometry.expansion(3000 * near, labels) / selection.divergence_to_centre(3000 * near, labels)
    assert far.max() > 1.5, "J is bounded, the expansion is not"


# Cohorts.


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small(tmp_path, monkeypatch, one_thread):
    """A profile of a hundred images and three seeds of other numbers than their positions, with an empty cache."""
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    monkeypatch.setitem(PROFILES, "small", replace(SMALL, seeds=(3, 5, 8)))
    return {"profile": "small", "condition": NOISY.name}


@pytest.mark.slow
def test_a_small_cohort_scores_and_trains(small, monkeypatch):
    result = runs.cached(experiment.score, small)  # `train` reads the subsets from the cache
    plan = {arm.subset: arm.fraction for arm in arms(NOISY.name) if arm.fraction < 1}
    assert set(result["kept"]) == set(plan)
    for name, fraction in plan.items():
        kept = result["kept"][name]
        for indices in kept:
            assert indices == sorted(set(indices))
            # Rounding is per class, ten of them, and a total may be cut to that of another seed.
            assert abs(len(indices) - fraction * 100) <= 10 * 0.5
        assert len({len(indices) for indices in kept}) == 1
    assert result["kept"]["random 0.5"] != result["kept"]["random again 0.5"]
    assert [(row["method"], row["seed"]) for row in result["rows"]] == [
        (method, seed) for method in ("full", "full again") for seed in (3, 5, 8)
    ]
    assert [(row["condition"], row["seed"]) for row in result["fitted"]] == [(NOISY.name, s) for s in (3, 5, 8)]
    assert "geometry" not in result

    arm = {**small, "method": "jscds", "fraction": 0.5, "lr": 0.1}
    monkeypatch.setattr(Cohort, "select", None)  # so that it can use nothing else
    first = experiment.train(**arm, matched="epochs")
    assert experiment.train(**arm, matched="epochs") == first
    assert [row["seed"] for row in first] == [3, 5, 8]
    draws = [draw(PROFILES["small"], NOISY, seed) for seed in (3, 5, 8)]
    for row, d, kept in zip(first, draws, result["kept"][HEADLINE.subset], strict=True):
        assert row["kept"] == len(kept)
        assert row["wrong_kept"] == pytest.approx(d.wrong[kept].double().mean().item(), rel=1e-12)
        for part in ("accuracy", "validation"):
            assert row[part] * 20 == pytest.approx(round(row[part] * 20), abs=1e-9)
        assert not row["diverged"]
    matched = experiment.train(**arm, matched="updates")
    assert [row["matched"] for row in matched] == ["updates"] * 3


@pytest.mark.slow
def test_a_clean_cohort_tells_how_subsets_relate(small):
    records = experiment.score(**{**small, "condition": CLEAN.name})["geometry"]
    assert [record["seed"] for record in records] == [3, 5, 8]
    for record in records:
        assert set(record["overlap"]) == {"another start of the scorer", *METHODS} - {"jscds"}
        assert all(0 <= share <= 1 for share in record["overlap"].values())
        assert set(record["rank correlation"]) == {"l2", "half_jeffreys", "expansion"}
        assert all(-1 <= rho <= 1 for rho in record["rank correlation"].values())


def test_a_network_that_diverges_is_an_outcome_and_costs_no_other(small, monkeypatch):
    """Of three networks the second one diverges; rows of the others are those of single runs."""
    monkeypatch.setattr(runs, "cached", lambda f, config: {"kept": {HEADLINE.subset: [list(range(50))] * 3}})
    fit = training.fit

    def diverging(models, x, y, recipe, *, seeds, **options):
        if training.seeds.derived(5, "start", "first") in seeds:
            raise training.TrainingDiverged("the loss is nan")
        return fit(models, x, y, recipe, seeds=seeds, **options)

    monkeypatch.setattr(training, "fit", diverging)
    rows = experiment.train(**small, method="jscds", fraction=0.5, matched="epochs", lr=0.1)
    assert [(row["seed"], row["diverged"]) for row in rows] == [(3, False), (5, True), (8, False)]
    assert rows[1]["accuracy"] == rows[1]["validation"] == 0


def test_every_arm_of_a_seed_starts_from_the_same_weights(small):
    setting = PROFILES["small"]
    clean, other = (Cohort(setting, condition, setting.seeds) for condition in (CLEAN, Condition("adjacent", 0.4)))
    starts, others, shifted = clean.networks(), other.networks(), clean.networks("second")
    for a, b, c in zip(starts, others, shifted, strict=True):
        assert torch.equal(a.head.weight, b.head.weight)
        assert not torch.equal(a.head.weight, c.head.weight)
    assert not torch.equal(starts[0].head.weight, starts[1].head.weight)


def test_cross_fitting_predicts_every_sample_from_the_other_half(small, monkeypatch):
    setting = PROFILES["small"]
    clean = Cohort(setting, CLEAN, setting.seeds)
    trained, predicted = [], []
    train_on, predict = clean.train_on, training.predict
    monkeypatch.setattr(clean, "train_on", lambda kept, recipe: trained.append(kept) or train_on(kept, recipe))
    monkeypatch.setattr(training, "predict", lambda models, x: predicted.append(x) or predict(models, x))
    probabilities = clean.cross_fitted()
    assert probabilities.shape == (3, 100, 10)
    np.testing.assert_allclose(probabilities.sum(2), 1, rtol=0, atol=10 * torch.finfo(torch.float32).eps)
    first, second = trained
    for k in range(3):
        assert torch.cat([first[k], second[k]]).sort().values.tolist() == list(range(100))
        assert torch.equal(predicted[0][k], clean.x[k, second[k]])
        assert torch.equal(predicted[1][k], clean.x[k, first[k]])


def test_only_the_signals_that_are_needed_are_read_off(small):
    setting = PROFILES["small"]
    clean = Cohort(setting, CLEAN, setting.seeds)
    for signals in clean.signals({"forgetting"}):
        assert signals.forgetting.shape == (100,)
        assert signals.logits is signals.grad_norms is signals.out_of_sample_probs is None


def test_the_smaller_and_the_early_scorer_are_what_they_are_called(small):
    setting = PROFILES["small"]
    clean = Cohort(setting, CLEAN, setting.seeds)
    assert clean.predicted("proxy")[0].shape[2] * 2 == clean.predicted("trained")[0].shape[2]
    assert not torch.equal(clean.predicted("early")[0], clean.predicted("trained")[0])
    features = clean.predicted("fresh head")[0]
    assert torch.equal(features, clean.predicted("trained")[0])
    assert not torch.equal(clean.predicted("fresh head")[1], clean.predicted("trained")[1])


# Results.


@pytest.mark.parametrize(
    "arm", [{"method": "no such"}, {"fraction": 0.3}, {"condition": "dirty"}, {"matched": "updates"}]
)
def test_an_arm_that_was_not_run_is_refused_by_name(arm):
    arguments = {"method": "jscds", **arm}
    with pytest.raises(ValueError, match=f"no arm .*{next(iter(arm.values()))}.* was run"):
        tuned((0.5, 0.5), (0.5, 0.5), (0.5, 0.5)).accuracies(**arguments)


def test_an_unknown_profile_is_refused_by_name():
    with pytest.raises(ValueError, match=r"profile: got 'nonsense', want one of \['smoke', 'ci', 'study'\]"):
        experiment.execute("nonsense")
