"""Profiles of the unlearning experiment: where values are tuned, what is run, and that training can be stopped."""

from dataclasses import replace

import pytest
import torch

from palimpsest import checkpoints, paths, runs, training
from palimpsest.experiments import unlearning, unlearning_cohort
from palimpsest.experiments.unlearning_conditions import ON_CPU, conditions
from palimpsest.experiments.unlearning_profiles import PROFILES
from palimpsest.unlearning.vision import METHODS


def jobs_of(monkeypatch, profile: str, chapter: str) -> tuple[dict[str, list[dict]], unlearning.Results]:
    """What `execute` would run, by function, and the table it makes of made-up rows."""
    asked: dict[str, list[dict]] = {}

    def run_all(function, configs, show):
        asked[function.__name__] = configs
        if function is unlearning.tune:
            return [
                [{**c, "value": v, "seed": 0, "gap": abs(v - METHODS[c["method"]].grid[i])}]
                for c in configs
                for i in [2]
                for v in METHODS[c["method"]].grid
            ]
        shares = {"FA": 0.5, "RA": 0.5, "TA": 0.5, "MIA": 0.5, "work": 1.0, "flow": [[1, 0], [0, 1]], "seed": 0}
        return [{"rows": [{**c, **shares}], "log": []} for c in configs]

    monkeypatch.setattr(runs, "run_all", run_all)
    return asked, unlearning.execute(profile, chapter)


def test_the_fallback_takes_the_values_chosen_at_ci(monkeypatch):
    asked, results = jobs_of(monkeypatch, "full-cpu", "qmul")
    assert {(c["profile"], c["precision"]) for c in asked["tune"]} == {("ci", "W4A4")}
    assert [c["method"] for c in asked["tune"]] == list(ON_CPU)
    cohorts = {(c["profile"], c["group"], c["precision"]) for c in asked["_prepare"]}
    assert cohorts == {(p, g, q) for p, g in (("ci", "tuning"), ("full-cpu", "verdict")) for q in ("float", "W4A4")}
    values = {c["method"]: c["value"] for c in asked["arm"]}
    assert values == {"original": 0, "retrain": 0, **{m: METHODS[m].grid[2] for m in ON_CPU}}
    assert {c["profile"] for c in asked["arm"]} == {"full-cpu"}
    assert {row["profile"] for row in results.tuned} == {"ci"}


@pytest.mark.parametrize("profile", ["ci", "full"])
def test_other_profiles_tune_where_they_run(monkeypatch, profile):
    asked, results = jobs_of(monkeypatch, profile, "oeu")
    everything = [c for configs in asked.values() for c in configs]
    assert {c["profile"] for c in everything} == {profile} == {row["profile"] for row in results.tuned}


def test_the_fallback_is_the_headline_with_five_methods():
    (only,) = conditions("full-cpu", "qmul")
    assert (only.precision, only.forget_set, only.methods) == ("W4A4", "random 10 %", ON_CPU)
    full, short = PROFILES["full"], PROFILES["full-cpu"]
    assert (short.architecture, short.dataset) == (full.architecture, full.dataset) == ("resnet18", "cifar10")
    # As many steps of unlearning as at the profile that its values come from, to a tenth.
    steps = {}
    for name in ("ci", "full-cpu"):
        s = PROFILES[name]
        forget = s.samples // 10
        steps[name] = s.unlearn_epochs * sum(-(-n // s.batch_size) for n in (forget, s.samples - forget))
    assert steps["full-cpu"] == pytest.approx(steps["ci"], rel=0.1)


class Stopped(Exception):
    pass


def test_training_that_was_stopped_goes_on_and_leaves_no_state(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    tiny = replace(PROFILES["smoke"], samples=60, validation=40, test=40, epochs=3, qat_lr=0.001)
    monkeypatch.setitem(PROFILES, "tiny", tiny)
    config = {"profile": "tiny", "group": "verdict", "precision": "float", "without": None}
    expected = unlearning_cohort.train(**config)
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
        unlearning_cohort.train(**config)
    resumed = unlearning_cohort.train(**config)
    assert epochs == [1, 2, 3]
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.items())
    assert list((tmp_path / "training").iterdir()) == []


def test_two_runs_never_share_their_state(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    monkeypatch.setitem(PROFILES, "tiny", replace(PROFILES["smoke"], samples=60, validation=40, resumable=True))
    folders = []

    def look(models, x, y, recipe, seeds, checkpoint, show):
        checkpoint.mkdir(parents=True)
        folders.append(checkpoint)

    monkeypatch.setattr(training, "fit", look)
    for without in (None, "random 10 %", "random 30 %"):
        for group in ("verdict", "tuning"):
            unlearning_cohort.train("tiny", group, "float", without)
    assert len(set(folders)) == 6
