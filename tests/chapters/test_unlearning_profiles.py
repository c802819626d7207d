"""Profiles of the unlearning experiment: what is tried, what is run, and that training can be stopped."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from palimpsest import runs, training, unlearning
from palimpsest.chapters.unlearning_quantised import arms, experiment
from palimpsest.chapters.unlearning_quantised.arms import METHODS, REFERENCES, STUDIED
from palimpsest.chapters.unlearning_quantised.cohort import train
from palimpsest.chapters.unlearning_quantised.conditions import conditions
from palimpsest.chapters.unlearning_quantised.profiles import PROFILES
from palimpsest.nets import quantised
from palimpsest.runs import paths
from palimpsest.training import checkpoints
from palimpsest.unlearning import vision
from palimpsest.unlearning.vision import FineTune
from palimpsest.unlearning.vision.method import STEP_SIZES


def jobs_of(monkeypatch, profile: str, chapter: str) -> tuple[dict[str, list[dict]], experiment.Results]:
    """What `execute` would run, by function, and the table it makes of made-up rows: the second value that is tried
    of a method is best, and Q-MUL alone records something."""
    asked: dict[str, list[dict]] = {}

    def rows(c: dict) -> list[dict]:
        own = c.get("only") or PROFILES[profile].seeds
        where = {name: c[name] for name in ("precision", "forget_set", "method")}
        if c["method"] in REFERENCES:
            lockstep, best = [[0.0] * len(own)], 0.0
        elif c.get("values") is None:
            grid = experiment.grid(profile, c["precision"], c["method"])
            lockstep, best = [[value] * len(own) for value in grid], grid[1]
        else:
            lockstep, best = [c["values"]], None
        return [
            {**where, "value": v, "seed": seed, "tuning_gap": 0.0 if v == best else 1.0, "gap": v}
            for values in lockstep
            for v, seed in zip(values, own, strict=True)
        ]

    def run_all(function, configs, show):
        asked.setdefault(function.__name__, []).extend(configs)
        if function is not experiment.run:
            return [None for _ in configs]
        return [{"rows": (r := rows(c)), "log": r if c["method"] == "Q-MUL" else []} for c in configs]

    monkeypatch.setattr(runs, "run_all", run_all)
    return asked, experiment.execute(profile, chapter)


@pytest.mark.parametrize(("profile", "chapter"), [("ci", "oeu"), ("ci", "qmul"), ("paper", "qmul")])
def test_a_profile_tunes_and_runs_what_it_trains(monkeypatch, profile, chapter):
    asked, results = jobs_of(monkeypatch, profile, chapter)
    assert {c["profile"] for configs in asked.values() for c in configs} == {profile}
    setting, methods = PROFILES[profile], conditions(PROFILES[profile], chapter)[0].methods
    # Every method tries the same number of values on every seed, and every seed gets the best of them.
    tried = results.tried.query("precision == 'W4A4'")
    assert set(tried.method) == set(methods)
    assert set(tried.groupby(["method", "seed"]).size()) == {setting.tried or len(METHODS["OEU"].grid)}
    assert set(tried.seed) == set(setting.seeds)
    for method in methods:
        expected = dict.fromkeys(setting.seeds, experiment.grid(profile, "W4A4", method)[1])
        assert results.values["W4A4", method] == expected
        assert results.column("gap", method).to_dict() == expected
    # What runs elsewhere does so at the values of the headline, and each arm once.
    for c in asked["run"]:
        if c.get("values") is not None:
            method = "Q-MUL" if c["method"] in arms.QUIRKED else c["method"]
            assert c["values"] == [results.values["W4A4", method][seed] for seed in c["only"]]
    assert not results.rows.duplicated(["precision", "forget_set", "method", "seed"]).any()
    assert (chapter == "qmul") == (set(arms.QUIRKED) <= set(results.rows.method))
    # Everything that is run has its networks, and its quantised ones come after the float ones.
    trained = {(c["precision"], c["without"], c["again"], seed) for c in asked["_prepare"] for seed in c["only"]}
    for c in asked["run"]:
        for seed in c.get("only") or setting.seeds:
            assert (c["precision"], None, False, seed) in trained
            assert (c["precision"], c["forget_set"], False, seed) in trained
            assert c["method"] != "retrain again" or (c["precision"], c["forget_set"], True, seed) in trained
    assert {(p, None, False, setting.seeds[0]) for p in arms.SWEEP} <= trained or chapter == "oeu"
    precisions = [c["precision"] for c in asked["_prepare"]]
    assert "float" not in precisions[precisions.count("float") :]
    # Another retraining stands where methods are tuned alone.
    again = results.rows[results.rows.method == "retrain again"]
    assert set(again.precision) == set(results.tried.precision)
    assert set(again.forget_set) == {"random 10 %"}


def test_the_log_is_that_of_the_values_chosen(monkeypatch):
    _, results = jobs_of(monkeypatch, "ci", "qmul")
    log = results.logged("Q-MUL")
    assert set(log.value) == {experiment.grid("ci", "W4A4", "Q-MUL")[1]}
    assert sorted(log.seed) == sorted(PROFILES["ci"].seeds)
    assert len(results.logged("Q-MUL", "float")) == len(log)


def test_a_seed_whose_values_all_diverged_runs_nowhere_else(monkeypatch):
    condition = conditions(PROFILES["ci"], "qmul")[2]
    own = PROFILES["ci"].seeds
    job = experiment._job("ci", condition, "OEU", {seed: 0.1 for seed in own if seed != own[1]})
    half = len(own) // 2
    assert condition.only == half
    assert job["only"] == [own[0], *own[2:half]]
    assert job["values"] == [0.1] * (half - 1)


def test_every_step_of_the_grid_is_a_factor_apart_around_the_pilot():
    assert set(arms.PILOTED) == set(METHODS)
    for method, best in arms.PILOTED.items():
        for count in (2, 4):
            values = arms.values_around(method, "W4A4", count)
            assert values == sorted(set(values))
            assert len(values) == count
            assert values[-2] == pytest.approx(best, rel=5e-3)  # three digits
            for small, large in pairwise(values):
                assert large / small == pytest.approx(3**0.5, rel=1e-2)
    assert experiment.grid("ci", "W4A4", "OEU") == arms.values_around("OEU", "W4A4", 4)
    assert experiment.grid("paper", "W4A4", "OEU") == list(STEP_SIZES)
    assert arms.values_around("Q-MUL", "float", 2) == [0.09, 0.156]
    assert arms.values_around("random label", "float", 2) == arms.values_around("random label", "W4A4", 2)
    assert set(arms.PILOTED_IN_FLOAT) <= set(arms.IN_FLOAT)


def test_replications_are_those_that_no_pilot_saw():
    retired = {*range(60, 63), *range(300, 310)}
    for name in ("ci", "study"):
        assert len(PROFILES[name].seeds) == 10
        assert not retired & set(PROFILES[name].seeds)
        assert PROFILES[name].tuned_on < len(PROFILES[name].seeds)
    assert not set(PROFILES["ci"].seeds) & set(PROFILES["study"].seeds)


def test_an_unknown_profile_is_refused_before_any_work(monkeypatch):
    with pytest.raises(ValueError, match="profile: got 'fulll'"):
        jobs_of(monkeypatch, "fulll", "qmul")


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
    named_there = (arms.BASELINES, arms.LABEL_METHODS, arms.VARIANTS, arms.IN_FLOAT, arms.ELSEWHERE, STUDIED)
    for named in (*named_there, arms.CONSTANTS, arms.FIXED, arms.PLACEBO):
        assert set(named) <= set(METHODS)
    assert set(METHODS) - set(conditions(PROFILES["ci"], "oeu")[0].methods) == set(arms.VARIANTS)
    assert METHODS[arms.PLACEBO[0]] == METHODS[arms.PLACEBO[1]]
    assert all(replace(fixed, fixed=False) == METHODS[name] for name, fixed in arms.FIXED.items())
    assert not set(arms.QUIRKED) & set(METHODS)
    assert {name: method.official_quirks for name, method in arms.QUIRKED.items()} == {
        "Q-MUL, quirk: distance": ("distance",),
        "Q-MUL, quirk: position": ("position",),
        "Q-MUL, quirk: order": ("order",),
        "Q-MUL, quirk: statistics": ("statistics",),
        "Q-MUL, all quirks": True,
    }


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
    more = {("W4A4", "random 50 %"), *((precision, "random 10 %") for precision in ("W4A8", "W8A8", "W2A2"))}
    assert there.keys() - here.keys() == more
    assert (PROFILES["paper"].retain_samples, PROFILES["paper"].tried) == (None, None)
    paper, mobile = PROFILES["paper"], PROFILES["paper-mobile"]
    assert (paper.architecture, paper.dataset, paper.epochs) == ("resnet18", "cifar10", 182)
    assert replace(mobile, name="paper", architecture="resnet18") == paper


class Stopped(Exception):
    pass


def test_training_that_was_stopped_goes_on_and_leaves_no_state(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    tiny = replace(PROFILES["smoke"], name="tiny", samples=60, validation=40, test=40, epochs=3, qat_lr=0.001)
    monkeypatch.setitem(PROFILES, "tiny", tiny)
    config = {"profile": "tiny", "precision": "float", "without": None, "again": False, "only": (0, 1)}
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
        for again in (False, True):
            for only in ((0,), (1,)):
                train("tiny", "float", without, again, only)
    assert len(set(folders)) == 12
