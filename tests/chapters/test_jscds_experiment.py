"""The JSCDS experiment: what is drawn, which arms there are, how step sizes are chosen, and one cohort in small."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from palimpsest import data, runs, selection, training
from palimpsest.chapters.jscds import cohort, experiment
from palimpsest.chapters.jscds.cohort import (
    BASELINES,
    CLEAN,
    COMPLETE,
    CONDITIONS,
    METHODS,
    MOBILENET,
    NOISY,
    PROFILES,
    RESNET,
    Cohort,
    Condition,
    draw,
)
from palimpsest.chapters.jscds.experiment import HEADLINE, Arm, Results, arms
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
    low, high = (draw(SMALL, Condition("symmetric", rate), 0) for rate in (0.1, 0.4))
    assert torch.equal(low.labels[low.wrong], high.labels[low.wrong])


def test_the_test_images_are_balanced_and_no_seeds_own(numbered):
    split = cohort.test_split(SMALL)
    assert split.labels.bincount().tolist() == [2] * 10
    assert min(numbers(split)) >= 500


@pytest.mark.parametrize("profile", PROFILES)
def test_the_profiles_fit_the_shipped_data(profile):
    setting = PROFILES[profile]
    source = cohort.dataset(setting.dataset)
    classes = len(source.classes)
    for count in (setting.samples, setting.validation, setting.test):
        assert count % classes == 0, "every class is drawn equally often"
    assert setting.samples + setting.validation <= len(source.train)
    assert setting.test <= len(source.test)
    assert setting.tuning_seed not in (*setting.seeds, *setting.other_seeds)
    assert set(COMPLETE) <= set(setting.conditions) <= set(CONDITIONS)
    assert 1 <= setting.early_epoch <= setting.epochs


def test_the_chapters_profile_has_the_seeds_that_were_asked_for():
    assert len(set(PROFILES["ci"].seeds)) >= 10
    assert {CONDITIONS[c].rate for c in PROFILES["ci"].conditions} == {0.0, 0.1, 0.2, 0.4}


# Arms.


@pytest.mark.parametrize("architecture", [RESNET, MOBILENET])
@pytest.mark.parametrize("condition", list(CONDITIONS))
def test_every_arm_is_known_once_and_shows_the_headline(condition, architecture):
    found = arms(condition, architecture)
    assert len(set(found)) == len(found)
    assert HEADLINE in found
    for arm in found:
        assert arm.method in METHODS
        assert 0 < arm.fraction < 1
        assert arm.matched in ("epochs", "steps")


def test_all_methods_meet_where_it_says_so():
    for condition in COMPLETE:
        found = arms(condition, RESNET)
        assert {arm.method for arm in found if arm.fraction == 0.5} == set(METHODS)
        assert {arm.fraction for arm in found if arm.method == "jscds"} == {0.1, 0.3, 0.5, 0.7}
        assert Arm("jscds", 0.5, "steps") in found
    for condition in set(CONDITIONS) - set(COMPLETE):
        assert {Arm("jscds", fraction) for fraction in (0.5, 0.7)} <= set(arms(condition, RESNET))


def test_selection_knows_every_method_and_every_baseline_is_run():
    for name, arguments in METHODS.items():
        method = selection.METHODS[arguments["method"]]
        assert arguments.get("preset", "paper_text") in selection.PRESETS
        assert set(arguments) - {"method", "preset"} <= set(method.switches), name
    assert "full" not in METHODS, "that is the scorer itself"
    assert set(BASELINES) == {name for name in METHODS if METHODS[name]["method"] != "jscds"}


def test_a_method_registered_in_the_library_is_no_arm_of_the_chapter(monkeypatch):
    before = {condition: arms(condition, RESNET) for condition in CONDITIONS}
    monkeypatch.setitem(selection.METHODS, "another", selection.METHODS["random"])
    assert "another" in selection.methods()
    assert {condition: arms(condition, RESNET) for condition in CONDITIONS} == before


# Step sizes.


def tuning(*rows: tuple[str, str, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["architecture", "method", "lr", "accuracy"])


def test_subsets_share_the_step_size_of_the_best_mean():
    # Means over the subsets: 0.6 at 0.01, 0.7 at 0.02, although the best single value is at 0.01.
    table = tuning(
        *((RESNET, method, 0.01, accuracy) for method, accuracy in (("full", 0.8), ("a", 0.9), ("b", 0.3))),
        *((RESNET, method, 0.02, accuracy) for method, accuracy in (("full", 0.7), ("a", 0.8), ("b", 0.6))),
        *((MOBILENET, method, 0.01, 0.1) for method in ("full", "a")),
        *((MOBILENET, method, 0.02, 0.2) for method in ("full", "a")),
    )
    expected = {RESNET: {"full": 0.01, "subset": 0.02}, MOBILENET: {"full": 0.02, "subset": 0.02}}
    assert experiment.best_lr(table) == expected


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_ties_go_to_the_smaller_step_size(order):
    rows = [(RESNET, method, lr, 0.5) for method in ("full", "a") for lr in (0.01, 0.02, 0.04)]
    rows = [rows[i + 3 * j] for j in (1, 0) for i in order]
    assert experiment.best_lr(tuning(*rows)) == {RESNET: {"full": 0.01, "subset": 0.01}}


# Geometry.


def test_overlap_by_hand():
    a, b = torch.tensor([0, 1, 2, 3]), torch.tensor([2, 3, 4, 5])
    assert experiment.overlap(a, b) == 0.5
    assert experiment.overlap(a, a.flip(0)) == 1.0
    assert experiment.overlap(a, b + 10) == 0.0


def test_rank_correlation_by_hand():
    labels = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1])
    a = torch.tensor([1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0])
    # Class 0 in the same order whatever the values; class 1 with ranks 2 1 4 3: 1 - 6·4/(4·15) = 0.6.
    b = torch.tensor([1.0, 20.0, 10.0, 10.0, 100.0, 40.0, 1000.0, 30.0])
    assert experiment.rank_correlation(a, b, labels) == pytest.approx((1 + 0.6) / 2, rel=1e-12)
    assert experiment.rank_correlation(a, -a, labels) == pytest.approx(-1, rel=1e-12)


# Cohorts.


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small(tmp_path, monkeypatch, one_thread):
    """A profile of a hundred images and two seeds of other numbers than their positions, with an empty cache."""
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    monkeypatch.setitem(PROFILES, "small", replace(SMALL, seeds=(3, 5), other_seeds=(3, 5)))
    return {"profile": "small", "architecture": RESNET, "condition": "symmetric 20 %"}


@pytest.mark.slow
def test_a_small_cohort_scores_and_trains(small, monkeypatch):
    result = runs.cached(experiment.score, {**small, "lr": 0.03})  # `train` reads the subsets from the cache
    assert len(result["full"]) == 2
    plan = {arm.subset: arm.fraction for arm in arms("symmetric 20 %", RESNET)}
    assert set(result["kept"]) == set(plan)
    for name, fraction in plan.items():
        kept = result["kept"][name]
        for indices in kept:
            assert indices == sorted(set(indices))
            # Rounding is per class, ten of them, and a total may be cut to that of the other seed.
            assert abs(len(indices) - fraction * 100) <= 10 * 0.5
        assert len({len(indices) for indices in kept}) == 1
    assert [record["seed"] for record in result["geometry"]] == [3, 5]
    for record in result["geometry"]:
        assert set(record["overlap"]) == {"another start of the scorer", *METHODS} - {"jscds"}
        assert all(0 <= share <= 1 for share in record["overlap"].values())
        assert all(-1 <= rho <= 1 for rho in record["rank correlation"].values())

    arm = {**small, "method": "jscds", "fraction": 0.5, "lr": 0.03, "lr_full": 0.03}
    monkeypatch.setattr(Cohort, "select", None)  # so that it can use nothing else
    first = experiment.train(**arm, matched="epochs")
    assert experiment.train(**arm, matched="epochs") == first
    assert [row["seed"] for row in first] == [3, 5]
    for row, d, kept in zip(
        first,
        [draw(PROFILES["small"], NOISY, seed) for seed in (3, 5)],
        result["kept"][HEADLINE.subset],
        strict=True,
    ):
        assert row["kept"] == len(kept)
        assert row["wrong_kept"] == pytest.approx(d.wrong[kept].double().mean().item(), rel=1e-12)
        assert row["accuracy"] * 20 == pytest.approx(round(row["accuracy"] * 20), abs=1e-9)
    matched = experiment.train(**arm, matched="steps")
    assert [row["matched"] for row in matched] == ["steps"] * 2


def test_every_arm_of_a_seed_starts_from_the_same_weights(small):
    setting = PROFILES["small"]
    clean, other = (
        Cohort(setting, RESNET, condition, setting.seeds, 0.03) for condition in (CLEAN, Condition("adjacent", 0.4))
    )
    starts, others, shifted = clean.networks(), other.networks(), clean.networks("second")
    for a, b, c in zip(starts, others, shifted, strict=True):
        assert torch.equal(a.head.weight, b.head.weight)
        assert not torch.equal(a.head.weight, c.head.weight)
    assert not torch.equal(starts[0].head.weight, starts[1].head.weight)


def test_cross_fitting_predicts_every_sample_from_the_other_half(small, monkeypatch):
    setting = PROFILES["small"]
    clean = Cohort(setting, RESNET, CLEAN, setting.seeds, 0.03)
    trained, predicted = [], []
    train_on, predict = clean.train_on, training.predict
    monkeypatch.setattr(clean, "train_on", lambda kept, recipe: trained.append(kept) or train_on(kept, recipe))
    monkeypatch.setattr(training, "predict", lambda models, x: predicted.append(x) or predict(models, x))
    probabilities = clean.cross_fitted()
    assert probabilities.shape == (2, 100, 10)
    np.testing.assert_allclose(probabilities.sum(2), 1, rtol=0, atol=10 * torch.finfo(torch.float32).eps)
    first, second = trained
    for k in range(2):
        assert torch.cat([first[k], second[k]]).sort().values.tolist() == list(range(100))
        assert torch.equal(predicted[0][k], clean.x[k, second[k]])
        assert torch.equal(predicted[1][k], clean.x[k, first[k]])


def test_tuning_compares_all_methods_on_the_tuning_seed(small):
    rows = experiment.tune("small", RESNET, 0.03)
    assert [row["method"] for row in rows] == ["full", *sorted(METHODS)]
    assert {row["lr"] for row in rows} == {0.03}
    # Twenty validation images.
    assert all(row["accuracy"] * 20 == pytest.approx(round(row["accuracy"] * 20), abs=1e-9) for row in rows)


# Results.


def results() -> Results:
    row = {"architecture": RESNET, "condition": "clean", "method": "jscds", "fraction": 0.5, "matched": "epochs"}
    table = pd.DataFrame([{**row, "seed": seed, "accuracy": seed / 10} for seed in (5, 3, 4)])
    return Results(pd.DataFrame(), table, pd.DataFrame(), {})


def test_accuracies_are_percents_by_seed():
    accuracies = results().accuracies("jscds")
    assert accuracies.index.tolist() == [3, 4, 5]
    assert accuracies.tolist() == pytest.approx([30, 40, 50], rel=1e-12)


@pytest.mark.parametrize(
    "arm",
    [
        {"method": "no such"},
        {"fraction": 0.3},
        {"condition": "dirty"},
        {"matched": "steps"},
        {"architecture": MOBILENET},
    ],
)
def test_an_arm_that_was_not_run_is_refused_by_name(arm):
    arguments = {"method": "jscds", **arm}
    with pytest.raises(ValueError, match=f"no arm .*{next(iter(arm.values()))}.* was run"):
        results().accuracies(**arguments)


def test_an_unknown_profile_is_refused_by_name():
    with pytest.raises(ValueError, match=r"profile: got 'nonsense', want one of \['smoke', 'ci', 'study'\]"):
        experiment.run("nonsense")
