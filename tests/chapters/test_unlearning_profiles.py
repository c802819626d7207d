"""Profiles of the unlearning experiment: where values are tuned, what is run, and that training can be stopped."""

from dataclasses import replace

import pytest
import torch

from palimpsest import runs, training, unlearning
from palimpsest.chapters.unlearning_quantised import arms, experiment
from palimpsest.chapters.unlearning_quantised.arms import METHODS, STUDIED
from palimpsest.chapters.unlearning_quantised.cohort import Cohort, train
from palimpsest.chapters.unlearning_quantised.conditions import conditions
from palimpsest.chapters.unlearning_quantised.profiles import PROFILES
from palimpsest.nets import quantised
from palimpsest.runs import paths
from palimpsest.training import checkpoints
from palimpsest.unlearning import vision
from palimpsest.unlearning.vision import FineTune
from palimpsest.unlearning.vision.method import STEP_SIZES


def jobs_of(monkeypatch, profile: str, chapter: str) -> tuple[dict[str, list[dict]], experiment.Results]:
    """What `execute` would run, by function, and the table it makes of made-up rows."""
    asked: dict[str, list[dict]] = {}

    def run_all(function, configs, show):
        asked[function.__name__] = configs
        if function is experiment.tune:
            return [
                [{**c, "value": v, "seed": 0, "gap": abs(v - METHODS[c["method"]].grid[i])}]
                for c in configs
                for i in [2]
                for v in METHODS[c["method"]].grid
            ]
        shares = {"FA": 0.5, "RA": 0.5, "TA": 0.5, "MIA": 0.5, "work": 1.0}
        log = {"Q-MUL": [{"weight_f": [0.1, 0.2]}, {"weighted_retain": [1.0, 1.0]}, {"weight_f": [0.3, 0.4]}]}
        return [
            {"rows": [{**c, **shares, "seed": seed} for seed in (0, 1)], "log": log.get(c.get("method"), [])}
            for c in configs
        ]

    monkeypatch.setattr(runs, "run_all", run_all)
    return asked, experiment.execute(profile, chapter)


@pytest.mark.parametrize(("profile", "chapter"), [("ci", "oeu"), ("paper", "oeu"), ("paper", "qmul")])
def test_a_profile_tunes_and_runs_what_it_trains(monkeypatch, profile, chapter):
    asked, results = jobs_of(monkeypatch, profile, chapter)
    everything = [c for configs in asked.values() for c in configs]
    assert {c["profile"] for c in everything} == {profile}
    assert {c["group"] for c in asked["_prepare"]} == {"tuning", "judged"}
    values = {c["method"]: c["value"] for c in asked["arm"] if c["precision"] == "W4A4"}
    assert all(value == METHODS[m].grid[2] for m, value in values.items() if m in METHODS)
    assert {row["method"] for row in results.tuned if row["precision"] == "W4A4"} == values.keys() & METHODS.keys()


def test_rows_carry_the_adaptive_weights_by_epoch(monkeypatch):
    _, results = jobs_of(monkeypatch, "ci", "qmul")
    weights = results.rows.query("precision == 'W4A4' and forget_set == 'random 10 %'")
    weights = weights.set_index(["method", "seed"]).weight_f
    assert weights["Q-MUL"].tolist() == [[0.1, 0.3], [0.2, 0.4]]
    assert weights["OEU"].tolist() == [[], []]


def test_an_unknown_profile_is_refused_before_any_work(monkeypatch):
    with pytest.raises(ValueError, match="profile: got 'fulll'"):
        jobs_of(monkeypatch, "fulll", "qmul")


@pytest.mark.parametrize(("largest", "expected"), [(0.03, [0.001, 0.003, 0.01, 0.03]), (0.3, list(STEP_SIZES))])
def test_tuning_leaves_out_the_values_above_the_largest(monkeypatch, largest, expected):
    monkeypatch.setitem(PROFILES, "tiny", replace(PROFILES["smoke"], name="tiny", largest=largest))
    monkeypatch.setattr(Cohort, "load", lambda cohort, whose: [])
    monkeypatch.setattr(Cohort, "problem", lambda cohort, copies=1: None)
    shares = {"FA": 0.5, "RA": 0.5, "TA": 0.5, "MIA": 0.5}
    monkeypatch.setattr(experiment.measures, "outputs", lambda *_: None)
    monkeypatch.setattr(experiment.measures, "report", lambda *_: [shares])
    monkeypatch.setattr(experiment, "_tried", lambda cohort, method, values: [shares] * len(values))
    assert [row["value"] for row in experiment.tune("tiny", "W4A4", "random label")] == expected


@pytest.mark.parametrize(("profile", "chapter"), [("ci", "oeu"), ("ci", "qmul"), ("paper", "qmul")])
def test_a_method_registered_in_the_library_is_no_arm_of_the_chapters(monkeypatch, profile, chapter):
    before, listed = conditions(PROFILES[profile], chapter), dict(METHODS)
    monkeypatch.setitem(vision.METHODS, "another", FineTune())
    assert "another" in unlearning.methods("vision")
    assert listed == METHODS
    assert conditions(PROFILES[profile], chapter) == before


def test_the_chapters_run_every_arm_they_list():
    at_the_headline = conditions(PROFILES["ci"], "qmul")[0].methods
    assert at_the_headline == tuple(METHODS)
    for named in (arms.BASELINES, arms.LABEL_METHODS, arms.VARIANTS, arms.SWEPT, STUDIED):
        assert set(named) <= set(METHODS)
    assert set(METHODS) - set(conditions(PROFILES["ci"], "oeu")[0].methods) == set(arms.VARIANTS)


def test_precisions_and_forget_sets_are_known_by_their_names():
    names = ("random 5 %", "random 10 %", "random 30 %", "random 50 %", "one class", "hardest 10 %")
    assert tuple(arms.FORGET_SETS) == names
    assert {name: p.bits for name, p in arms.PRECISIONS.items()} == {"float": None, **quantised.PRECISIONS}


def test_the_paper_protocol_runs_more_than_the_claims_need():
    here, there = (
        {(c.precision.name, c.forget_set.name): set(c.methods) for c in conditions(PROFILES[profile], "qmul")}
        for profile in ("ci", "paper")
    )
    assert len(there) == len(conditions(PROFILES["paper"], "qmul"))  # no condition twice: its rows would be too
    assert all(methods <= there[where] for where, methods in here.items())
    assert there.keys() - here.keys() == {("W4A4", "random 50 %"), ("W4A8", "random 10 %")}
    paper, mobile = PROFILES["paper"], PROFILES["paper-mobile"]
    assert (paper.architecture, paper.dataset, paper.epochs) == ("resnet18", "cifar10", 182)
    assert replace(mobile, name="paper", architecture="resnet18") == paper


class Stopped(Exception):
    pass


def test_training_that_was_stopped_goes_on_and_leaves_no_state(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    tiny = replace(PROFILES["smoke"], name="tiny", samples=60, validation=40, test=40, epochs=3, qat_lr=0.001)
    monkeypatch.setitem(PROFILES, "tiny", tiny)
    config = {"profile": "tiny", "group": "judged", "precision": "float", "without": None}
    expected = train(**config)
    assert not (tmp_path / "training").exists()

    monkeypatch.setitem(PROFILES, "tiny", replace(tiny, resumable=True))
    save, epochs = checkpoints.save, []

    def stop(folder, identity, epoch, *rest):
        save(folder, identity, epoch, *rest)
        epochs.append(epoch)
        if epoch == 2 and epochs.count(2) == 1:
            raise Stopped

    monkeypatch.setattr(checkpoints, "save", stop)
    with pytest.raises(Stopped):
        train(**config)
    resumed = train(**config)
    assert epochs == [1, 2, 3]
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.items())
    assert list((tmp_path / "training").iterdir()) == []


def test_two_runs_never_share_their_state(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    monkeypatch.setitem(
        PROFILES, "tiny", replace(PROFILES["smoke"], name="tiny", samples=60, validation=40, resumable=True)
    )
    folders = []

    def look(models, x, y, recipe, seeds, checkpoint, show):
        checkpoint.mkdir(parents=True)
        folders.append(checkpoint)

    monkeypatch.setattr(training, "fit", look)
    for without in (None, "random 10 %", "random 30 %"):
        for group in ("judged", "tuning"):
            train("tiny", group, "float", without)
    assert len(set(folders)) == 6
