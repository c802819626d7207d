"""The JSCDS experiment: what is drawn, which arms there are, how step sizes are chosen, and one cohort in small."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from palimpsest import data, runs, selection, training
from palimpsest.chapters.jscds import cohort as jscds_cohort
from palimpsest.chapters.jscds import experiment as jscds
from palimpsest.chapters.jscds.cohort import COMPLETE, CONDITIONS, METHODS, MOBILENET, PROFILES, RESNET
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
    monkeypatch.setattr(jscds_cohort, "dataset", lambda name: made)
    jscds_cohort.test_split.cache_clear()
    yield made
    jscds_cohort.test_split.cache_clear()


def numbers(split: data.Split) -> list[int]:
    return (256 * split.images[:, 0, 0].long() + split.images[:, 0, 1]).tolist()


# Drawing.


@pytest.mark.parametrize("seed", [0, 17])
@pytest.mark.parametrize("condition", list(CONDITIONS))
def test_a_draw_is_balanced_disjoint_and_wrong_exactly_where_it_says(numbered, condition, seed):
    d = jscds_cohort.draw(SMALL, condition, seed)
    assert (len(d.train), len(d.validation)) == (100, 20)
    assert d.train.labels.bincount().tolist() == [10] * 10
    assert d.validation.labels.bincount().tolist() == [2] * 10
    assert len({*numbers(d.train), *numbers(d.validation)}) == 120
    assert torch.equal(d.train.labels, torch.tensor(numbers(d.train)) % 10), "images keep their own labels"
    inject, rate = CONDITIONS[condition]
    assert torch.equal(d.wrong, d.labels != d.train.labels)
    assert int(d.wrong.sum()) == round(rate * 100)
    if inject is data.adjacent_noise:
        assert ((d.labels - d.train.labels).abs() == d.wrong.long()).all()


def test_a_seed_draws_the_same_images_under_every_condition(numbered):
    for seed in (0, 1, 2):
        draws = [jscds_cohort.draw(SMALL, condition, seed) for condition in CONDITIONS]
        for d in draws[1:]:
            assert numbers(d.train) == numbers(draws[0].train)
            assert numbers(d.validation) == numbers(draws[0].validation)
        again = jscds_cohort.draw(SMALL, "symmetric 20 %", seed)
        assert torch.equal(again.labels, draws[list(CONDITIONS).index("symmetric 20 %")].labels)
    first, second = (jscds_cohort.draw(SMALL, "clean", seed) for seed in (0, 1))
    assert numbers(first.train) != numbers(second.train)


def test_more_noise_keeps_the_wrong_labels_of_less(numbered):
    low, high = (jscds_cohort.draw(SMALL, f"symmetric {percent} %", 0) for percent in (10, 40))
    assert torch.equal(low.labels[low.wrong], high.labels[low.wrong])


def test_the_test_images_are_balanced_and_no_seeds_own(numbered):
    split = jscds_cohort.test_split(SMALL)
    assert split.labels.bincount().tolist() == [2] * 10
    assert min(numbers(split)) >= 500


@pytest.mark.parametrize("profile", PROFILES)
def test_the_profiles_fit_the_shipped_data(profile):
    setting = PROFILES[profile]
    source = jscds_cohort.dataset(setting.dataset)
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
    assert {CONDITIONS[c][1] for c in PROFILES["ci"].conditions} == {0.0, 0.1, 0.2, 0.4}


# Arms.


@pytest.mark.parametrize("architecture", [RESNET, MOBILENET])
@pytest.mark.parametrize("condition", list(CONDITIONS))
def test_every_arm_is_known_once_and_shows_the_headline(condition, architecture):
    arms = jscds.arms(condition, architecture)
    assert len(set(arms)) == len(arms)
    assert ("jscds", 0.5, "epochs") in arms
    for method, fraction, matched in arms:
        assert method in METHODS
        assert 0 < fraction < 1
        assert matched in ("epochs", "steps")


def test_all_methods_meet_where_it_says_so():
    for condition in COMPLETE:
        arms = jscds.arms(condition, RESNET)
        assert {method for method, fraction, _ in arms if fraction == 0.5} == set(METHODS)
        assert {fraction for method, fraction, _ in arms if method == "jscds"} == {0.1, 0.3, 0.5, 0.7}
        assert ("jscds", 0.5, "steps") in arms
    for condition in set(CONDITIONS) - set(COMPLETE):
        assert {("jscds", fraction, "epochs") for fraction in (0.5, 0.7)} <= set(jscds.arms(condition, RESNET))


def test_selection_knows_every_method_and_every_baseline_is_run():
    for name, arguments in METHODS.items():
        method = selection.METHODS[arguments["method"]]
        assert arguments.get("preset", "paper_text") in selection.PRESETS
        assert set(arguments) - {"method", "preset"} <= set(method.switches), name
    # "full" is the scorer itself.
    assert {arguments["method"] for arguments in METHODS.values()} == set(selection.methods()) - {"full"}
    assert set(jscds_cohort.BASELINES) == {name for name in METHODS if METHODS[name]["method"] != "jscds"}


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
    assert jscds.best_lr(table) == expected


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_ties_go_to_the_smaller_step_size(order):
    rows = [(RESNET, method, lr, 0.5) for method in ("full", "a") for lr in (0.01, 0.02, 0.04)]
    rows = [rows[i + 3 * j] for j in (1, 0) for i in order]
    assert jscds.best_lr(tuning(*rows)) == {RESNET: {"full": 0.01, "subset": 0.01}}


# Geometry.


def test_overlap_by_hand():
    a, b = torch.tensor([0, 1, 2, 3]), torch.tensor([2, 3, 4, 5])
    assert jscds.overlap(a, b) == 0.5
    assert jscds.overlap(a, a.flip(0)) == 1.0
    assert jscds.overlap(a, b + 10) == 0.0


def test_rank_correlation_by_hand():
    labels = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1])
    a = torch.tensor([1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0])
    # Class 0 in the same order whatever the values; class 1 with ranks 2 1 4 3: 1 - 6·4/(4·15) = 0.6.
    b = torch.tensor([1.0, 20.0, 10.0, 10.0, 100.0, 40.0, 1000.0, 30.0])
    assert jscds.rank_correlation(a, b, labels) == pytest.approx((1 + 0.6) / 2, rel=1e-12)
    assert jscds.rank_correlation(a, -a, labels) == pytest.approx(-1, rel=1e-12)


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
    result = runs.cached(jscds.score, {**small, "lr": 0.03})  # `train` reads the subsets from the cache
    assert len(result["full"]) == 2
    plan = {f"{method} {fraction}" for method, fraction, _ in jscds.arms("symmetric 20 %", RESNET)}
    assert set(result["kept"]) == plan
    for name, kept in result["kept"].items():
        fraction = float(name.split()[-1])
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
    monkeypatch.setattr(jscds_cohort.Cohort, "select", None)  # so that it can use nothing else
    first = jscds.train(**arm, matched="epochs")
    assert jscds.train(**arm, matched="epochs") == first
    assert [row["seed"] for row in first] == [3, 5]
    for row, d, kept in zip(
        first,
        [jscds_cohort.draw(PROFILES["small"], "symmetric 20 %", seed) for seed in (3, 5)],
        result["kept"]["jscds 0.5"],
        strict=True,
    ):
        assert row["kept"] == len(kept)
        assert row["wrong_kept"] == pytest.approx(d.wrong[kept].double().mean().item(), rel=1e-12)
        assert row["accuracy"] * 20 == pytest.approx(round(row["accuracy"] * 20), abs=1e-9)
    matched = jscds.train(**arm, matched="steps")
    assert [row["matched"] for row in matched] == ["steps"] * 2


def test_every_arm_of_a_seed_starts_from_the_same_weights(small):
    setting = PROFILES["small"]
    cohort, other = (
        jscds_cohort.Cohort(setting, RESNET, condition, setting.seeds, 0.03)
        for condition in ("clean", "adjacent 40 %")
    )
    starts, others, shifted = cohort.networks(), other.networks(), cohort.networks(500)
    for a, b, c in zip(starts, others, shifted, strict=True):
        assert torch.equal(a.head.weight, b.head.weight)
        assert not torch.equal(a.head.weight, c.head.weight)
    assert not torch.equal(starts[0].head.weight, starts[1].head.weight)


def test_cross_fitting_predicts_every_sample_from_the_other_half(small, monkeypatch):
    setting = PROFILES["small"]
    cohort = jscds_cohort.Cohort(setting, RESNET, "clean", setting.seeds, 0.03)
    trained, predicted = [], []
    train_on, predict = cohort.train_on, training.predict
    monkeypatch.setattr(cohort, "train_on", lambda kept, recipe: trained.append(kept) or train_on(kept, recipe))
    monkeypatch.setattr(training, "predict", lambda models, x: predicted.append(x) or predict(models, x))
    probabilities = cohort.cross_fitted()
    assert probabilities.shape == (2, 100, 10)
    np.testing.assert_allclose(probabilities.sum(2), 1, rtol=0, atol=10 * torch.finfo(torch.float32).eps)
    first, second = trained
    for k in range(2):
        assert torch.cat([first[k], second[k]]).sort().values.tolist() == list(range(100))
        assert torch.equal(predicted[0][k], cohort.x[k, second[k]])
        assert torch.equal(predicted[1][k], cohort.x[k, first[k]])


def test_tuning_compares_all_methods_on_the_tuning_seed(small):
    rows = jscds.tune("small", RESNET, 0.03)
    assert [row["method"] for row in rows] == ["full", *sorted(METHODS)]
    assert {row["lr"] for row in rows} == {0.03}
    # Twenty validation images.
    assert all(row["accuracy"] * 20 == pytest.approx(round(row["accuracy"] * 20), abs=1e-9) for row in rows)


# Results.


def results() -> jscds.Results:
    row = {"architecture": RESNET, "condition": "clean", "method": "jscds", "fraction": 0.5, "matched": "epochs"}
    table = pd.DataFrame([{**row, "seed": seed, "accuracy": seed / 10} for seed in (5, 3, 4)])
    return jscds.Results(pd.DataFrame(), table, pd.DataFrame(), {})


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
    with pytest.raises(ValueError, match=r"profile: got 'nonsense', want one of \['smoke', 'ci', 'full'\]"):
        jscds.run("nonsense")
