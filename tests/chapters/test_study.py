"""Studies, end to end at tiny size: what is stored comes back, goes on, is guarded, and can be audited."""

import json
import os
import shutil
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import plans
import pytest
import torch
from safetensors.numpy import load, save
from typer.testing import CliRunner

from palimpsest import runs
from palimpsest.chapters.shared import audit, stored, study
from palimpsest.chapters.unlearning_quantised import study as unlearning
from palimpsest.chapters.unlearning_quantised.cohort import Cohort, dataset
from palimpsest.chapters.unlearning_quantised.profiles import PROFILES
from palimpsest.commands import main
from palimpsest.data import manifest
from palimpsest.runs import cache, paths, pool
from palimpsest.training import TrainingDiverged
from palimpsest.unlearning import vision

PLAN = unlearning.PLAN
METHODS = ("fine-tune", "random label", "Q-MUL")


def spread(call, arguments, *, name, done):
    """As `runs.spread`, in this process."""
    values = []
    for argument in arguments:
        values.append(call(argument))
        done(values[-1])
    return values


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Three methods on two seeds, and a folder of data that holds nothing yet."""
    dataset("fashion-mnist"), cache._shipped()  # read from the repository's own folder
    folder = tmp_path_factory.mktemp("study")
    setting = replace(PROFILES["smoke"], name="study", samples=100, validation=40, test=40, epochs=1, qat_lr=0.001)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "spread", spread)
        patch.setattr(paths, "CACHE", folder / "cache")
        patch.setattr(unlearning, "STUDIED", METHODS)
        patch.setitem(PROFILES, "study", replace(setting, largest=0.003))
        yield folder


@pytest.fixture
def data(tiny, monkeypatch):
    """Makes an empty folder of data the one that is used."""

    def use(name: str):
        folder = tiny / name
        folder.mkdir(exist_ok=True)
        (folder / manifest.NAME).exists() or (folder / manifest.NAME).write_text("[]\n")
        monkeypatch.setattr(paths, "DATA", folder)
        monkeypatch.setattr(paths, "ROOT", folder)
        return folder

    return use


@pytest.fixture
def recorded(tiny, data, tmp_path):
    """A folder with the whole study, to be spoilt."""
    if not (tiny / "whole").exists():
        data("whole")
        study.run(PLAN)
    shutil.copytree(tiny / "whole", tiny / tmp_path.name)
    return data(tmp_path.name)


def arm(method: str, seed: int = 0) -> stored.Arm:
    return unlearning._arm("judged", method, seed)


def respoil(file, change) -> None:
    """Alter the predictions of an arm, and the manifest with them."""
    kept = {"row": json.dumps(stored.header(file))}
    arrays = load(file.read_bytes())
    change(arrays)
    file.write_bytes(save(arrays, kept))
    manifest.update([file])


def test_rows_say_what_the_predictions_give(recorded):
    table = study.recompute(PLAN)
    judged = table[table.group == "judged"]
    assert set(judged.method) == {"original", "retrain", *METHODS}
    assert all(sorted(seeds) == [0, 1] for _, seeds in judged.groupby("method").seed)
    retrain = judged[judged.method == "retrain"]
    assert (retrain.gap == 0).all()
    assert (retrain.agreement == 1).all()
    assert (judged.gap[judged.method == "original"] > 0).all()
    chosen = judged[judged.method.isin(METHODS)].value
    assert chosen.isin(vision.METHODS["fine-tune"].grid).all()
    for method in METHODS:
        tuning = table[(table.group == "tuning") & (table.method == method)]
        best = tuning.sort_values(["gap", "value"]).value.iloc[0]
        assert (judged.value[judged.method == method] == best).all()
    # By hand, from one file: FA is the share of the forget set whose label is the largest logit.
    arrays = load(stored.file_of(PLAN.name, arm("Q-MUL")).read_bytes())
    assert {name: (a.dtype.name, a.shape) for name, a in arrays.items()} == {
        "forget": ("float16", (5, 10)),
        "retain": ("float16", (40, 10)),
        "test": ("float16", (40, 10)),
        "forget_labels": ("uint8", (5,)),
        "retain_labels": ("uint8", (40,)),
        "test_labels": ("uint8", (40,)),
    }
    row = judged[(judged.method == "Q-MUL") & (judged.seed == 0)].iloc[0]
    for name, part in (("FA", "forget"), ("RA", "retain"), ("TA", "test")):
        assert row[name] == (arrays[part].argmax(1) == arrays[f"{part}_labels"]).mean()
    manifest.check()


def test_a_study_that_was_stopped_goes_on_and_computes_nothing_twice(recorded, data, monkeypatch, capsys):
    whole = study.recompute(PLAN)
    folder, computed, interrupts = data("stopped"), [], [7]

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
    rows = study.recompute(PLAN).set_index(["group", "method", "seed"])
    row = rows.loc["judged", "Q-MUL", 0]
    assert row.diverged == "the loss is nan"
    assert np.isnan(row.FA)
    assert rows.loc["judged", "Q-MUL", 1].FA >= 0
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
    in_float = [{**arm("Q-MUL", seed), "precision": "float", "value": 0.003} for seed in (0, 1)]
    where = ("study", "judged", "float", "random 5 %")
    originals = [Cohort.named(*where, only=[seed]).load("original")[0] for seed in (0, 1)]
    monkeypatch.setattr(stored, "start", lambda name, origin: originals[origin["seed"]].state_dict())
    alone = [outcome for each in in_float for outcome in unlearning.compute([each])]
    for found, kept in zip(unlearning.compute(in_float), alone, strict=True):
        assert found.predictions.keys() == kept.predictions.keys()
        for name, values in found.predictions.items():
            np.testing.assert_allclose(values, kept.predictions[name], atol=1e-6)


def test_of_seeds_in_lockstep_those_that_diverge_are_told_apart(recorded, monkeypatch):
    def diverge(models, problem, *rest):
        if 0 in problem.seeds:
            raise TrainingDiverged("the loss is nan")
        return forget(models, problem, *rest)

    forget = unlearning.forget
    monkeypatch.setattr(unlearning, "forget", diverge)
    first, second = unlearning.compute([arm("Q-MUL", seed) for seed in (0, 1)])
    assert first.predictions == {}
    kept, found = stored.predictions(PLAN.name, arm("Q-MUL", 1)), stored.rounded(second.predictions)
    assert all((values == kept[name]).all() for name, values in found.items())


@pytest.mark.parametrize("what", ["arms", "starts"])
@pytest.mark.parametrize("fault", ["truncated", "altered", "missing"])
def test_a_file_cut_short_altered_or_lost_is_refused_by_name(recorded, what, fault):
    file = (
        stored.file_of(PLAN.name, arm("Q-MUL", 1)) if what == "arms" else stored.start_of(PLAN.name, arm("original"))
    )
    content = bytearray(file.read_bytes())
    if fault == "missing":
        file.unlink()
    else:
        content[-1] ^= 1
        file.write_bytes(content[:-9] if fault == "truncated" else content)
    for use in (study.run, study.recompute, study.complete, lambda plan: audit.audit(plan, 1, 0)):
        with pytest.raises(ValueError, match=f"{file}: {fault}"):
            use(PLAN)


def test_a_file_of_another_arm_or_of_none_is_refused_by_name(recorded):
    own, other = (stored.file_of(PLAN.name, arm("Q-MUL", seed)) for seed in (0, 1))
    kept = own.read_bytes()
    own.write_bytes(other.read_bytes())
    manifest.update([own])
    with pytest.raises(ValueError, match=f"{own}: holds the arm .*'seed': 1"):
        study.recompute(PLAN)
    own.write_bytes(kept)
    manifest.update([own])
    stray = own.with_name("stray.safetensors")
    stray.write_bytes(kept)
    manifest.update([stray])
    with pytest.raises(ValueError, match=f"{stray}: of no arm of this study"):
        study.recompute(PLAN)


def test_rows_that_do_not_say_what_the_predictions_give_are_refused(recorded):
    file = stored.file_of(PLAN.name, arm("Q-MUL"))
    respoil(file, lambda arrays: arrays["test"].sort(1))
    with pytest.raises(ValueError, match=r"rows.json: judged_W4A4_random-5_Q-MUL_0: states TA = .*predictions give"):
        study.recompute(PLAN)
    PLAN.file.write_text(PLAN.file.read_text().replace('"TA": 0.', '"TA": 0.9'))
    with pytest.raises(ValueError, match=f"{PLAN.file}: altered"):
        study.recompute(PLAN)


def test_predictions_of_another_source_are_refused_until_they_are_accepted(recorded, monkeypatch):
    first, lost = PLAN.source, stored.file_of(PLAN.name, arm("Q-MUL"))
    lost.unlink()
    manifest.update([lost])
    monkeypatch.setattr(study.Plan, "source", "f" * 64)
    monkeypatch.setattr(runs, "alone", lambda function, **_: nullcontext())
    with pytest.raises(
        ValueError, match=rf"predictions of another source: {first[:12]}… of commit .*--accept {first}"
    ):
        study.run(PLAN)
    assert set(study.run(PLAN, accept=(first,)).source) == {first, "f" * 64}
    assert set(study.recompute(PLAN).source) == {first, "f" * 64}
    # A record whose acceptance was not given names what it holds.
    record = json.loads(PLAN.file.read_text())
    PLAN.file.write_text(json.dumps(record | {"accepted": [first]}))
    manifest.update([PLAN.file])
    with pytest.raises(ValueError, match=f"{lost}: predictions of another source: ffffffffffff…"):
        study.recompute(PLAN)


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


def run_audit(*arguments: str):
    return CliRunner().invoke(main.app, ["audit", "qmul", *arguments])


def test_an_audit_of_what_was_recorded_passes(recorded):
    done = run_audit("--arms", "3", "--seed", "1")
    assert done.exit_code == 0, done.output
    assert "False" not in done.output
    lines = [line for line in done.output.splitlines() if line.lstrip().startswith(("judged_", "tuning_"))]
    assert len({line.split()[0] for line in lines}) == 3
    assert f"{len(lines)} of {len(lines)} numbers lie within" in done.output


def test_an_audit_finds_what_was_altered_together_with_manifest_and_rows(recorded):
    for seed in (0, 1):
        respoil(stored.file_of(PLAN.name, arm("Q-MUL", seed)), lambda arrays: arrays["test"].sort(1))
    study._record(PLAN, [PLAN.source])
    study.recompute(PLAN)
    manifest.check()
    everything = len([arm for arm in PLAN.arms if PLAN.origin(arm)])
    done = run_audit("--arms", str(everything))
    assert done.exit_code == 1
    outside = [line for line in done.output.splitlines() if " False " in line]
    assert outside
    assert all(line.split()[0].startswith("judged_W4A4_random-5_Q-MUL_") for line in outside)


@pytest.mark.parametrize("count", ["0", "99"])
def test_an_audit_of_more_arms_than_there_are_is_refused(recorded, count):
    done = run_audit("--arms", count)
    assert done.exit_code == 1
    assert f"arms: got {count}, want from 1 to the" in done.output


def test_nothing_recorded_is_none_and_cannot_be_audited(data):
    data("empty")
    assert study.recompute(PLAN) is None
    assert not study.complete(PLAN)
    done = run_audit("--arms", "1")
    assert done.exit_code == 1
    assert "nothing is recorded; `palimpsest run qmul --profile study` computes it" in done.output


def test_the_spread_of_an_audit_is_that_of_the_other_replications():
    before, others = {"FA": 0.5}, [{"FA": 0.5}, {"FA": 0.6}, {"FA": 0.4}]
    (row,) = audit.compare(before, {"FA": 0.75}, others)
    assert row["allowed"] == pytest.approx(2 * 2**0.5 * 0.1)
    assert row["within"]
    assert not audit.compare(before, {"FA": 0.79}, others)[0]["within"]
    # One other says nothing of a spread.
    assert not audit.compare(before, {"FA": 0.51}, others[:1])[0]["within"]
    assert audit.compare(before, {"FA": 0.502}, [])[0]["within"]
    assert not audit.compare(before, {"FA": None}, others)[0]["within"]
    assert [audit.compare(a, b, others)[0]["within"] for a in ({}, before) for b in ({}, before)] == [
        True,
        False,
        False,
        True,
    ]


def test_predictions_that_float16_cannot_hold_are_refused():
    kept = stored.rounded({"a": np.array([0.1, -3e4]), "labels": np.array([0, 255])})
    assert [array.dtype.name for array in kept.values()] == ["float16", "uint8"]
    assert stored.rounded(kept)["a"].tobytes() == kept["a"].tobytes()
    for name, values in {"a": [1e5], "b": [np.nan], "c": [256], "d": [-1], "e": ["x"]}.items():
        with pytest.raises(ValueError, match=rf"predictions\['{name}'\]: got"):
            stored.rounded({name: np.array(values)})


def test_a_study_too_large_for_the_repository_is_refused_at_its_first_arm(data):
    folder = data("large")
    arrays = {"a": np.zeros(100_000, np.float16)}
    with pytest.raises(ValueError, match="study s: 200 arms like these take 40 MB, want at most 25"):
        stored.write("s", {"seed": 0}, arrays, {}, None, wanted=200, made_by="x")
    assert not (folder / "studies").exists()
    stored.write("s", {"seed": 0}, arrays, {}, None, wanted=100, made_by="x")
    assert stored.finished("s", [{"seed": 0}, {"seed": 1}]) == [{"seed": 0}]
    with pytest.raises(ValueError, match="want file names that differ, not a-b_0"):
        stored.finished("s", [{"name": name, "seed": 0} for name in ("a b", "a-b")])


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
            study.run(plans.PLAN)
        assert study.recompute(plans.PLAN) is None
        pool._pool.cache_clear()
        monkeypatch.setenv("SPOILT", "b")
        with pytest.raises(RuntimeError, match=r"^nothing\(\[\{'method': 'b', 'seed': 0\}\]\) failed: a bad arm$"):
            study.run(plans.PLAN)
        assert list(study.recompute(plans.PLAN).method) == [
            "a",
            "a",
        ]  # what was finished is kept and can be committed
        manifest.check()
        pool._pool.cache_clear()
        monkeypatch.delenv("SPOILT")
        table = study.run(plans.PLAN)
    finally:
        pool._pool.cache_clear()
    assert list(table["mean"]) == [0, float(np.float16(1 / 3)), 0, float(np.float16(1 / 3))]
    assert os.getpid() not in set(table.process)
    assert table.process.nunique() == 2
