"""Studies at tiny size: what is stored comes back and goes on where it was stopped."""

import os
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from plans import METHODS, NOTHING, arm
from plans import UNLEARNING as PLAN
from safetensors.numpy import load
from typer.testing import CliRunner

from palimpsest import runs
from palimpsest.chapters.shared import audit, stored, study
from palimpsest.chapters.unlearning_quantised import study as unlearning
from palimpsest.chapters.unlearning_quantised.arms import REFERENCES
from palimpsest.chapters.unlearning_quantised.cohort import Cohort
from palimpsest.chapters.unlearning_quantised.experiment import grid
from palimpsest.commands import main
from palimpsest.data import manifest
from palimpsest.runs import paths, pool
from palimpsest.training import TrainingDiverged


def test_rows_say_what_the_predictions_give(recorded):
    table = study.recompute(PLAN)
    assert set(table.method) == {*REFERENCES, *METHODS}
    # Every method runs at every value on every seed, and no network at any.
    tried = table[table.value.notna()]
    for method in METHODS:
        own = tried[tried.method == method]
        assert sorted(zip(own.value, own.seed, strict=True)) == [
            (value, seed) for value in grid("study", "W4A4", method) for seed in (0, 1)
        ]
    assert set(table.method[table.value.isna()]) == set(REFERENCES)
    retrain = table[table.method == "retrain"]
    assert (retrain.gap == 0).all()
    assert (retrain.tuning_gap == 0).all()
    assert (retrain.agreement == 1).all()
    for others in ("original", "retrain again"):
        assert (table.gap[table.method == others] > 0).all()
    assert (tried.steps > 0).all()
    assert table.steps[table.value.isna()].isna().all()
    # The value of a seed is what did best on the other one.
    tuned = unlearning.tuned(table)
    assert len(tuned) == 2 * len(METHODS)
    for method, seed, value in zip(tuned.method, tuned.seed, tuned.value, strict=True):
        other = tried[(tried.method == method) & (tried.seed == 1 - seed)]
        assert value == other.sort_values(["tuning_gap", "value"]).value.iloc[0]
    # By hand, from one file: FA is the share of the forget set whose label is the largest logit.
    arrays = load(stored.file_of(PLAN.name, arm("Q-MUL")).read_bytes())
    counts = {"forget": 5, "retain": 95, "test": 40, "validation": 40}
    logits = {name: ("float16", (count, 10)) for name, count in counts.items()}
    assert {name: (a.dtype.name, a.shape) for name, a in arrays.items()} == logits | {
        f"{name}_labels": ("uint8", (count,)) for name, count in counts.items()
    }
    row = tried[(tried.method == "Q-MUL") & (tried.seed == 0)].sort_values("value").iloc[0]
    against = load(stored.file_of(PLAN.name, arm("retrain")).read_bytes())
    for name, part in (("FA", "forget"), ("RA", "retain"), ("TA", "test")):
        assert row[name] == (arrays[part].argmax(1) == arrays[f"{part}_labels"]).mean()
    assert row.agreement == (arrays["forget"].argmax(1) == against["forget"].argmax(1)).mean()
    manifest.check()


def test_the_retain_set_is_stored_in_part(recorded, monkeypatch):
    monkeypatch.setattr(unlearning, "KEPT", 20)
    (outcome,) = unlearning.compute([arm("retrain")])
    counts = {name: len(a) for name, a in outcome.predictions.items() if "labels" not in name}
    assert counts == {"forget": 5, "retain": 20, "test": 20, "validation": 20}
    whole = stored.predictions(PLAN.name, arm("retrain"))
    assert (stored.rounded(outcome.predictions)["test"] == whole["test"][:20]).all()


def test_a_study_that_was_stopped_goes_on_and_computes_nothing_twice(recorded, use_data, monkeypatch, capsys):
    whole = study.recompute(PLAN)
    folder, computed, interrupts = use_data("stopped"), [], [7]

    def compute(arms):
        if len(computed) in interrupts:
            interrupts.clear()
            raise KeyboardInterrupt
        computed.extend(arms)
        return PLAN.compute(arms)

    stopping = replace(PLAN, compute=compute)
    monkeypatch.setattr(study.Plan, "source", PLAN.source)
    monkeypatch.setattr(runs, "alone", lambda function, **_: nullcontext())
    monkeypatch.setattr(runs, "drain", lambda: None)
    with pytest.raises(KeyboardInterrupt):
        study.run(stopping)
    assert "arms under way are finished first" in capsys.readouterr().out
    manifest.check()  # what is there can be committed
    assert len(study.recompute(PLAN)) == 7
    assert not study.complete(PLAN)
    before = {file: file.read_bytes() for file in folder.rglob("*.safetensors")}
    table = study.run(stopping)
    assert sorted(map(stored.name_of, computed)) == sorted(map(stored.name_of, PLAN.arms))
    assert all(file.read_bytes() == content for file, content in before.items())
    assert study.complete(PLAN)
    assert table.drop(columns="commit").equals(whole.drop(columns="commit"))
    study.run(stopping)
    assert len(computed) == len(PLAN.arms)


def test_an_arm_that_was_being_written_when_its_process_was_killed_is_computed_again(recorded):
    file = stored.file_of(PLAN.name, arm("Q-MUL"))
    content, listing = file.read_bytes(), (recorded / manifest.NAME).read_text()
    file.unlink()
    manifest.update([file])
    file.write_bytes(b"half")
    assert not study.complete(PLAN)
    study.run(PLAN)
    assert load(file.read_bytes()).keys() == load(content).keys()
    assert all((a == load(content)[name]).all() for name, a in load(file.read_bytes()).items())
    assert listing.count("- path") == (recorded / manifest.NAME).read_text().count("- path")


def test_a_run_that_diverges_is_an_outcome(recorded, monkeypatch):
    file = stored.file_of(PLAN.name, arm("Q-MUL"))
    file.unlink()
    manifest.update([file])

    def diverge(*_):
        raise TrainingDiverged("the loss is nan")

    monkeypatch.setattr(unlearning, "forget", diverge)
    study.run(PLAN)
    rows = study.recompute(PLAN).set_index(["method", "value", "seed"]).sort_index()
    value = arm("Q-MUL")["value"]
    row = rows.loc["Q-MUL", value, 0]
    assert row.diverged == "the loss is nan"
    assert np.isnan(row.FA)
    assert rows.loc["Q-MUL", value, 1].FA >= 0
    # Seed 1 looks at seed 0, and does not take the value at which that diverged.
    tuned = unlearning.tuned(study.recompute(PLAN)).query("method == 'Q-MUL' and seed == 1")
    assert tuned.value.tolist() == [grid("study", "W4A4", "Q-MUL")[1]]
    again = audit.again(PLAN, PLAN.source, arm("Q-MUL"))
    assert audit.compare({}, again, [])[0]["within"]


def test_an_original_is_measured_as_it_is_stored(recorded, monkeypatch):
    start = stored.start(PLAN.name, arm("original"))
    assert {value.dtype for value in start.values() if value.ndim > 1} == {torch.float16}
    assert {value.dtype for value in start.values() if value.ndim <= 1} == {torch.float32, torch.int64}

    def without_head(state):
        return state | {"head.weight": torch.zeros_like(state["head.weight"])}

    monkeypatch.setattr(stored, "halved", without_head)
    (outcome,) = unlearning.compute([arm("original")])
    assert np.ptp(outcome.predictions["test"], axis=0).max() == 0
    assert not outcome.start["head.weight"].any()


def test_seeds_in_lockstep_give_what_each_gives_alone(recorded, monkeypatch):
    # In float: the rounding of a quantised network as hardly trained as these amplifies the order of a sum.
    in_float = [arm("Q-MUL", seed) | {"precision": "float", "value": 0.003} for seed in (0, 1)]
    where = ("study", "float", "random 5 %")
    originals = [Cohort.named(*where, only=[seed]).load("original")[0] for seed in (0, 1)]
    monkeypatch.setattr(stored, "start", lambda name, origin: originals[origin["seed"]].state_dict())
    alone = [outcome for each in in_float for outcome in unlearning.compute([each])]
    for found, kept in zip(unlearning.compute(in_float), alone, strict=True):
        assert found.predictions.keys() == kept.predictions.keys()
        for name, values in found.predictions.items():
            np.testing.assert_allclose(values, kept.predictions[name], atol=1e-6)


def test_of_seeds_in_lockstep_those_that_diverge_are_told_apart(recorded, monkeypatch):
    def diverge(cohort, *rest):
        if 0 in cohort.seeds:
            raise TrainingDiverged("the loss is nan")
        return forget(cohort, *rest)

    forget = unlearning.forget
    monkeypatch.setattr(unlearning, "forget", diverge)
    first, second = unlearning.compute([arm("Q-MUL", seed) for seed in (0, 1)])
    assert first.predictions == {}
    kept, found = stored.predictions(PLAN.name, arm("Q-MUL", 1)), stored.rounded(second.predictions)
    assert all((values == kept[name]).all() for name, values in found.items())


def test_the_command_goes_on_with_a_study_and_names_what_it_cannot_read(recorded):
    def command(*more):
        return CliRunner().invoke(main.app, ["run", "qmul", "--profile", "study", *more])

    assert f"qmul: {len(PLAN.arms)} arms in {PLAN.file.parent}" in command().output
    assert f"qmul: recorded in {PLAN.file}" in command("--pending").output
    file = stored.file_of(PLAN.name, arm("Q-MUL"))
    file.write_bytes(file.read_bytes()[:-1])
    for arguments in ((), ("--pending",)):
        done = command(*arguments)
        assert done.exit_code == 1
        assert f"{file}: truncated" in done.output


def test_the_forecast_goes_by_kind(monkeypatch):
    monkeypatch.setenv("PALIMPSEST_WORKERS", "2")
    assert study.forecast({}, Counter(a=1)) == "no forecast yet"
    seconds = {"a": [3600.0, 7200.0], "b": [36.0]}
    assert study.forecast(seconds, Counter(a=4, b=100)) == "about 3.5 h left"
    assert study.forecast({"b": [36.0]}, Counter(a=100)) == "about 0.5 h left"


def test_arms_are_computed_and_stored_by_worker_processes(tmp_path, monkeypatch):
    (tmp_path / manifest.NAME).write_text("[]\n")
    for name, value in {"DATA": tmp_path, "CACHE": tmp_path / ".cache"}.items():
        monkeypatch.setattr(paths, name, value)
        monkeypatch.setenv(f"PALIMPSEST_{name}", str(value))
    monkeypatch.setattr(runs, "spread", pool.spread)
    monkeypatch.setenv("PALIMPSEST_WORKERS", "1")
    monkeypatch.setenv("SPOILT", "a")
    try:
        with pytest.raises(RuntimeError, match="a bad arm"):
            study.run(NOTHING)
        assert study.recompute(NOTHING) is None
        pool._pool.cache_clear()
        monkeypatch.setenv("SPOILT", "b")
        with pytest.raises(RuntimeError, match=r"^nothing\(\[\{'method': 'b', 'seed': 0\}\]\) failed: a bad arm$"):
            study.run(NOTHING)
        assert list(study.recompute(NOTHING).method) == [
            "a",
            "a",
        ]  # what was finished is kept and can be committed
        manifest.check()
        pool._pool.cache_clear()
        monkeypatch.delenv("SPOILT")
        table = study.run(NOTHING)
    finally:
        pool._pool.cache_clear()
    assert list(table["mean"]) == [0, float(np.float16(1 / 3)), 0, float(np.float16(1 / 3))]
    assert os.getpid() not in set(table.process)
    assert table.process.nunique() == 2
