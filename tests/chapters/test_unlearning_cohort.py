"""The unlearning cohorts: what is drawn, that nothing leaks, that networks come back, and what is run on them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from palimpsest import runs, training
from palimpsest.chapters.unlearning_quantised import experiment, measures
from palimpsest.chapters.unlearning_quantised.arms import METHODS, PLACEBO
from palimpsest.chapters.unlearning_quantised.cohort import Cohort, dataset, held_out, surprise, train
from palimpsest.chapters.unlearning_quantised.profiles import PROFILES
from palimpsest.runs import paths
from palimpsest.training import TrainingDiverged
from palimpsest.unlearning.vision import Report


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "CACHE", tmp_path_factory.mktemp("cache"))
        sizes = {"samples": 60, "validation": 40, "test": 40, "epochs": 2, "together": 1, "retain_samples": 18}
        small = replace(PROFILES["smoke"], name="tiny", qat_lr=0.001, **sizes)
        patch.setitem(PROFILES, "tiny", small)
        yield


def same(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """[len(a)]: is image a[i] among b?"""
    return (a.flatten(1)[:, None] == b.flatten(1)[None]).all(2).any(1)


@pytest.mark.parametrize("forget_set", ["random 10 %", "random 30 %", "one class", "hardest 10 %"])
def test_forget_and_retain_set_part_the_data(forget_set):
    cohort = Cohort.named("tiny", "float", forget_set)
    together = torch.cat([cohort.forget, cohort.retain], 1).sort(1).values
    assert torch.equal(together, torch.arange(60).expand(2, -1))
    size = {"random 10 %": 6, "random 30 %": 18, "one class": 6, "hardest 10 %": 6}[forget_set]
    assert cohort.forget.shape == (2, size)


def test_one_class_is_all_of_the_class_of_the_seed():
    cohort = Cohort.named("tiny", "float", "one class")
    for seed, y, forget in zip(cohort.seeds, cohort.y, cohort.forget, strict=True):
        assert (y[forget] == seed % 10).all()
        assert (y == seed % 10).sum() == len(forget)


def test_the_hardest_samples_surprise_the_other_half_most():
    cohort = Cohort.named("tiny", "float", "hardest 10 %")
    configs = [{"profile": "tiny", "only": part.only} for part in cohort.parts()]
    loss = torch.cat([runs.artifact(surprise, config)["loss"] for config in configs])
    for k in range(2):
        assert loss[k, cohort.forget[k]].min() >= loss[k, cohort.retain[k]].max()
    assert (loss > 0).all()


def test_seeds_draw_their_own_images_and_no_image_of_tuning_or_test_is_trained_on():
    cohort = Cohort.named("tiny", "float", "random 10 %")
    assert not torch.equal(cohort.x[0], cohort.x[1])
    # Methods are tuned on images of the training split: none of any seed's.
    for x in cohort.x:
        assert not same(cohort.validation[0], x).any()
    for _, labels in (cohort.test, cohort.validation):
        assert torch.equal(labels.bincount(), torch.full((10,), 4))
    assert not torch.equal(cohort.forget[0], cohort.forget[1])
    problem = cohort.problem()
    assert (problem.test, problem.validation) == (cohort.test, cohort.validation)


def test_the_images_of_tuning_are_those_of_the_training_split_that_are_held_out():
    indices = held_out("fashion-mnist", 40)
    source = dataset("fashion-mnist").train.subset(indices)
    images, labels = Cohort.named("tiny", "float", "random 10 %").validation
    assert torch.equal(images, source.pixels())
    assert torch.equal(labels, source.labels)
    assert len(set(indices.tolist())) == 40


def test_retrain_never_sees_the_forget_set(monkeypatch):
    seen = []
    monkeypatch.setattr(training, "fit", lambda models, x, y, recipe, seeds: seen.append((models, x, y, seeds)))
    cohort = Cohort.named("tiny", "float", "random 10 %")
    for without, again in (("random 10 %", False), ("random 10 %", True), (None, False)):
        train("tiny", "float", without, again, (0, 1))
    problem = cohort.problem()
    retrain, retrained_again, original = seen
    for k in range(2):
        forgotten = problem.take(problem.forget)[0][k]
        assert not same(forgotten, retrain[1][k]).any()
        assert not same(forgotten, retrained_again[1][k]).any()
        assert same(forgotten, original[1][k]).all()
    # Retrain again: the same data in another order, from another start. Retrain starts as the original does.
    assert all(torch.equal(a, b) for a, b in zip(retrain[1:3], retrained_again[1:3], strict=True))
    assert retrain[3] == original[3]
    assert not set(retrain[3]) & set(retrained_again[3])
    starts = [torch.stack([model.head.weight for model in models]) for models, *_ in seen]
    assert torch.equal(starts[0], starts[2])
    assert not torch.equal(starts[0], starts[1])


def test_retrain_again_is_another_network():
    cohort = Cohort.named("tiny", "float", "random 10 %")
    first, second = (cohort.load(whose) for whose in ("retrain", "retrain again"))
    for a, b in zip(first, second, strict=True):
        assert not torch.equal(a.head.weight, b.head.weight)
    with pytest.raises(
        ValueError, match=r"whose: got 'other', want one of \('original', 'retrain', 'retrain again'\)"
    ):
        cohort.load("other")


def test_a_quantised_network_starts_from_the_float_one_that_saw_the_same_data(monkeypatch):
    asked = []

    def load(cohort, whose):
        asked.append((cohort.precision.name, whose))
        return cohort.untrained()

    monkeypatch.setattr(Cohort, "load", load)
    monkeypatch.setattr(training, "fit", lambda models, x, y, recipe, seeds: None)
    for without, again in ((None, False), ("random 10 %", False), ("random 10 %", True)):
        train("tiny", "W4A4", without, again, (0,))
    assert asked == [("float", whose) for whose in ("original", "retrain", "retrain again")]


@pytest.mark.parametrize("together", [1, 2])
def test_parts_are_aligned_with_their_seeds(monkeypatch, together):
    setting = replace(PROFILES["tiny"], seeds=(4, 7, 2), together=together)
    monkeypatch.setitem(PROFILES, "tiny", setting)
    whole = Cohort.named("tiny", "float", "random 10 %")
    assert [part.seeds for part in whole.parts()] == {1: [[4], [7], [2]], 2: [[4, 7], [2]]}[together]
    monkeypatch.setattr(
        runs,
        "artifact",
        lambda function, config: {
            f"{k}.{name}": torch.full_like(value, seed)
            for k, seed in enumerate(config["only"])
            for name, value in whole.blank()[0].state_dict().items()
        },
    )
    assert [model.head.bias[0].item() for model in whole.load("retrain")] == [4, 7, 2]
    # A part is what the whole is at its seeds.
    for part, rows in zip(whole.parts(), {1: [[0], [1], [2]], 2: [[0, 1], [2]]}[together], strict=True):
        for name in ("x", "y", "forget", "retain"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[rows])


@pytest.mark.parametrize("precision", ["float", "W4A4"])
def test_networks_come_back_from_the_cache_bit_for_bit(precision):
    first, second = (Cohort.named("tiny", precision, "random 10 %").load("retrain") for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(v, b.state_dict()[n]) for n, v in a.state_dict().items())
    x = Cohort.named("tiny", precision, "random 10 %").test[0]
    assert torch.equal(training.logits(first, x), training.logits(second, x))


def test_a_problem_of_some_networks_has_theirs_in_this_order():
    problem = Cohort.named("tiny", "float", "random 10 %").problem()
    some = problem.of([1, 0, 1])
    assert some.seeds == [1, 0, 1]
    for name in ("x", "y", "forget", "retain"):
        assert torch.equal(getattr(some, name), getattr(problem, name)[[1, 0, 1]])
    assert some.test is problem.test


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="precision: got 'W3A3', want one of"):
        Cohort.named("tiny", "W3A3", "random 10 %")
    with pytest.raises(ValueError, match="forget_set: got 'some', want one of"):
        Cohort.named("tiny", "float", "some")


def test_report_measures_what_its_names_say():
    cohort = Cohort.named("tiny", "float", "random 10 %")
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
    return measures.details(models, measures.outputs(models, cohort.problem()), cohort, [0, 1])


def test_details_of_retrain_and_of_the_original_against_themselves():
    cohort = Cohort.named("tiny", "W4A4", "random 10 %")
    rows, originals = details(cohort, "retrain"), details(cohort, "original")
    for row in rows:
        assert row["cka"] == pytest.approx(1)
        assert sum(map(sum, row["flow"])) == 6
        assert row["entropy"] == pytest.approx(sum(row["entropies"]) / 6, abs=1e-4)
        assert len(row["margins"]) == 6
    assert [row["codes_changed"] for row in originals] == [0, 0]
    assert all(row["codes_changed"] > 0 for row in rows)
    assert [row["chi2"] for row in rows] == [0, 0]
    for own, target in zip(originals, rows, strict=True):
        a, b = (np.sum(row["flow"], axis=0) for row in (own, target))
        named = a + b > 0
        assert own["chi2"] == pytest.approx(((a - b)[named] ** 2 / (a + b)[named]).sum() / (a + b).sum())
    # Network 1 alone, in place 0, is compared with its own original and Retrain.
    models = cohort.load("retrain")[1:]
    found = measures.outputs(models, cohort.problem().of([1]))
    (alone,) = measures.details(models, found, cohort, [1])
    for name in ("codes_changed", "flow", "margins", "chi2"):
        assert alone[name] == rows[1][name]
    assert alone["cka"] == pytest.approx(1)


def test_margins_by_hand():
    z = torch.tensor([[3.0, 1.0, 2.5], [0.0, -1.0, 4.0], [1.0, 1.0, 1.0]])
    assert measures.margins(z, torch.tensor([0, 1, 2])).tolist() == [0.5, -5.0, 0.0]


def test_sure_is_the_share_of_certain_predictions():
    # Entropies of two classes that are d apart in logits: ln 2 at d = 0, 0.37 at 2, 0.006 at 7.3, nothing at 50.
    z = torch.tensor([[0.0, 0.0], [7.3, 0.0], [0.0, 50.0], [2.0, 0.0]])[None]
    y = torch.zeros(1, 4, dtype=torch.long)
    outputs = measures.Outputs({"forget": z, "test": z}, {"forget": y, "test": y})
    told = measures.told(outputs, outputs, 0, 0)
    assert told["sure"] == 0.5
    assert told["loss_auc"] == 0.5


def test_a_run_has_a_row_for_every_value_and_seed():
    where = {"profile": "tiny", "precision": "float", "forget_set": "random 10 %"}
    done = experiment.run(**where, method="fine-tune")
    values = experiment.grid("tiny", "float", "fine-tune")
    assert len(values) == PROFILES["tiny"].tried == 2
    rows = done["rows"]
    assert [(row["value"], row["seed"]) for row in rows] == [(v, seed) for v in values for seed in (0, 1)]
    assert not any(row["diverged"] for row in rows)
    # 18 retain samples in batches of at most 10; backward costs two forward; Retrain passes 54 samples in 2 epochs.
    assert {(row["steps"], row["backward"]) for row in rows} == {(2, 18)}
    assert [row["rte"] for row in rows] == pytest.approx([3 * 18 / (3 * 2 * 54)] * 4)
    assert {"FA", "RA", "TA", "MIA", "gap", "tuning_gap", "cka", "margins"} <= rows[0].keys()
    assert done["log"] == []
    # At a value and a seed named, the same row.
    (again,) = experiment.run(**where, method="fine-tune", values=[values[1]], only=[1])["rows"]
    assert (again["value"], again["seed"]) == (values[1], 1)
    assert (again["steps"], again["rte"]) == (rows[3]["steps"], rows[3]["rte"])
    assert again["margins"] == pytest.approx(rows[3]["margins"], abs=2e-3)  # rounded to thousandths


def test_rows_of_the_references_stand_at_no_value():
    where = {"profile": "tiny", "precision": "float", "forget_set": "random 10 %"}
    said = {}
    for method, rte in (("original", 0.0), ("retrain", 1.0), ("retrain again", 1.0)):
        rows = experiment.run(**where, method=method)["rows"]
        assert [(row["value"], row["seed"], row["rte"]) for row in rows] == [(0.0, 0, rte), (0.0, 1, rte)]
        assert method != "retrain" or all(row["gap"] == row["tuning_gap"] == 0 for row in rows)
        said[method] = [row["margins"] for row in rows]
    assert said["original"] != said["retrain"] != said["retrain again"]


def test_a_run_that_diverges_is_told_from_the_others(monkeypatch):
    tried = []

    def forget(cohort, name, method, networks, values, originals):
        tried.append(list(networks))
        if 1 in networks:
            raise TrainingDiverged("the loss is nan")
        return [cohort.load("original")[k] for k in networks], Report(
            [{"epoch": 0, "step": 0, "dot": [0.5]}], 30, 20, 3, 0.1
        )

    monkeypatch.setattr(experiment, "forget", forget)
    where = {"profile": "tiny", "precision": "float", "forget_set": "random 10 %"}
    done = experiment.run(**where, method="OEU", values=[0.1, 0.2])
    assert tried == [[0, 1], [0], [1]]
    first, second = done["rows"]
    assert (first["diverged"], first["value"], first["steps"], first["backward"]) == (False, 0.1, 3, 20)
    assert first["rte"] == pytest.approx((30 + 2 * 20) / (3 * 2 * 54))
    named = {"precision": "float", "forget_set": "random 10 %", "method": "OEU"}
    assert second == {**named, "value": 0.2, "seed": 1, "diverged": True}
    assert done["log"] == [{**named, "value": 0.1, "seed": 0, "epoch": 0, "step": 0, "dot": 0.5}]


def test_one_method_under_two_names_draws_other_numbers(monkeypatch):
    asked = {}
    cohort = Cohort.named("tiny", "float", "random 10 %")
    originals = cohort.untrained()

    def unlearn(models, x, y, forget, method, **settings):
        asked[settings["lr"][0]] = settings

    monkeypatch.setattr(experiment, "unlearn", unlearn)
    for value, name in zip((0.1, 0.2, 0.3), (*PLACEBO, "Q-MUL"), strict=True):
        experiment.forget(cohort, name, METHODS[name], [1, 0], [value] * 2, originals)
    first, second, third = (asked[value]["seeds"] for value in (0.1, 0.2, 0.3))
    assert first == third
    assert not set(first) & set(second)
    assert not set(first) & {0, 1}, "what a run draws from differs from what drew its data"
    assert {settings["retain_samples"] for settings in asked.values()} == {18}
