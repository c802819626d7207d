"""The unlearning cohorts: what is drawn, that nothing leaks, and that what is stored comes back."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from palimpsest import runs, training
from palimpsest.chapters.unlearning_quantised import experiment, measures
from palimpsest.chapters.unlearning_quantised.cohort import Cohort, surprise, train
from palimpsest.chapters.unlearning_quantised.profiles import PROFILES
from palimpsest.runs import paths


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "CACHE", tmp_path_factory.mktemp("cache"))
        small = replace(PROFILES["smoke"], name="tiny", samples=60, validation=40, test=40, epochs=2, qat_lr=0.001)
        patch.setitem(PROFILES, "tiny", small)
        yield


def same(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """[len(a)]: is image a[i] among b?"""
    return (a.flatten(1)[:, None] == b.flatten(1)[None]).all(2).any(1)


@pytest.mark.parametrize("forget_set", ["random 10 %", "random 30 %", "one class", "hardest 10 %"])
def test_forget_and_retain_set_part_the_data(forget_set):
    cohort = Cohort.named("tiny", "judged", "float", forget_set)
    together = torch.cat([cohort.forget, cohort.retain], 1).sort(1).values
    assert torch.equal(together, torch.arange(60).expand(2, -1))
    size = {"random 10 %": 6, "random 30 %": 18, "one class": 6, "hardest 10 %": 6}[forget_set]
    assert cohort.forget.shape == (2, size)


def test_one_class_is_all_of_the_class_of_the_seed():
    cohort = Cohort.named("tiny", "judged", "float", "one class")
    for seed, y, forget in zip(cohort.seeds, cohort.y, cohort.forget, strict=True):
        assert (y[forget] == seed % 10).all()
        assert (y == seed % 10).sum() == len(forget)


def test_the_hardest_samples_surprise_the_other_half_most():
    cohort = Cohort.named("tiny", "judged", "float", "hardest 10 %")
    loss = runs.artifact(surprise, {"profile": "tiny", "group": "judged"})["loss"]
    for k in range(2):
        assert loss[k, cohort.forget[k]].min() >= loss[k, cohort.retain[k]].max()
    assert (loss > 0).all()


def test_seeds_draw_their_own_images_and_no_test_image_is_trained_on():
    judged, tuning = (Cohort.named("tiny", group, "float", "random 10 %") for group in ("judged", "tuning"))
    assert not torch.equal(judged.x[0], judged.x[1])
    # Tuning tests on images of the training split: none of any seed's.
    for x in (*judged.x, *tuning.x):
        assert not same(tuning.test[0], x).any()
    assert torch.equal(judged.test[1].bincount(), torch.full((10,), 4))
    assert not torch.equal(judged.forget[0], judged.forget[1])


def test_retrain_never_sees_the_forget_set(monkeypatch):
    seen = []
    monkeypatch.setattr(training, "fit", lambda models, x, y, recipe, seeds: seen.append(x))
    cohort = Cohort.named("tiny", "judged", "float", "random 10 %")
    train("tiny", "judged", "float", "random 10 %")
    train("tiny", "judged", "float", None)
    problem = cohort.problem()
    for k in range(2):
        forgotten = problem.take(problem.forget)[0][k]
        assert not same(forgotten, seen[0][k]).any()
        assert same(forgotten, seen[1][k]).all()


@pytest.mark.parametrize("precision", ["float", "W4A4"])
def test_networks_come_back_from_the_cache_bit_for_bit(precision):
    first, second = (Cohort.named("tiny", "tuning", precision, "random 10 %").load("retrain") for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(v, b.state_dict()[n]) for n, v in a.state_dict().items())
    x = Cohort.named("tiny", "tuning", precision, "random 10 %").test[0]
    assert torch.equal(training.logits(first, x), training.logits(second, x))


def test_repeated_problems_are_the_same_seeds_again():
    problem = Cohort.named("tiny", "judged", "float", "random 10 %").problem(copies=3)
    assert problem.x.shape[0] == 6
    assert problem.seeds == [0, 1] * 3
    assert torch.equal(problem.x[:2], problem.x[4:])


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="precision: got 'W3A3', want one of"):
        Cohort.named("tiny", "judged", "W3A3", "random 10 %")
    with pytest.raises(ValueError, match="forget_set: got 'some', want one of"):
        Cohort.named("tiny", "judged", "float", "some")


def test_report_measures_what_its_names_say():
    cohort = Cohort.named("tiny", "judged", "float", "random 10 %")
    models, problem = cohort.load("original"), cohort.problem()
    rows = measures.report(measures.outputs(models, problem), problem.seeds)
    for k, row in enumerate(rows):
        with torch.no_grad():
            right = models[k].eval()(cohort.x[k]).argmax(1) == cohort.y[k]
        assert row["FA"] == pytest.approx(right[cohort.forget[k]].double().mean().item())
        assert row["RA"] == pytest.approx(right[cohort.retain[k]].double().mean().item())
        assert row["TA"] == pytest.approx(training.accuracy([models[k]], *cohort.test)[0])
        assert 0 <= row["MIA"] <= 1


def details(cohort: Cohort, whose: str) -> list[dict]:
    models = cohort.load(whose)
    return measures.details(models, measures.outputs(models, cohort.problem()), cohort)


def test_details_of_retrain_and_of_the_original_against_themselves():
    cohort = Cohort.named("tiny", "judged", "W4A4", "random 10 %")
    rows = details(cohort, "retrain")
    for row in rows:
        assert row["cka"] == pytest.approx(1)
        assert sum(map(sum, row["flow"])) == 6
        assert row["entropy"] == pytest.approx(sum(row["entropies"]) / 6, abs=1e-4)
    assert [row["codes_changed"] for row in details(cohort, "original")] == [0, 0]
    # In float: a quantised network as hardly trained as these need not survive the relearning.
    in_float = Cohort.named("tiny", "judged", "float", "random 10 %")
    originals = details(in_float, "original")
    assert [row["relearn"] for row in originals] == [0, 0]
    assert all(row["codes_changed"] > 0 for row in rows)
    assert [row["chi2"] for row in rows] == [0, 0]
    for own, target in zip(originals, details(in_float, "retrain"), strict=True):
        a, b = (np.sum(row["flow"], axis=0) for row in (own, target))
        named = a + b > 0
        assert own["chi2"] == pytest.approx(((a - b)[named] ** 2 / (a + b)[named]).sum() / (a + b).sum())


@pytest.mark.parametrize(("precision", "detailed"), [("W4A4", True), ("float", False)])
def test_details_are_taken_at_the_headline_alone(monkeypatch, precision, detailed):
    monkeypatch.setattr(measures, "details", lambda models, found, cohort: [{"cka": 1.0, "relearn": 0}] * 2)
    rows = experiment.arm("tiny", precision, "random 10 %", "original", 0.0)["rows"]
    assert [{"cka", "relearn"} <= row.keys() for row in rows] == [detailed] * 2
    assert all("FA" in row for row in rows)
