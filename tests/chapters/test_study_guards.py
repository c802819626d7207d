"""Studies at tiny size: what is refused, and the audit."""

import json
import re
from contextlib import nullcontext

import numpy as np
import pytest
from plans import UNLEARNING as PLAN
from plans import all_right, arm, respoil
from typer.testing import CliRunner

from palimpsest import runs
from palimpsest.chapters.shared import audit, stored, study
from palimpsest.commands import main
from palimpsest.data import manifest


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
    respoil(file, all_right)
    name = re.escape(stored.name_of(arm("Q-MUL")))
    assert name.startswith(re.escape("W4A4_random-5_Q-MUL_"))
    with pytest.raises(ValueError, match=rf"rows.json: {name}: states (MIA|TA) = .*predictions give"):
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


def run_audit(*arguments: str):
    return CliRunner().invoke(main.app, ["audit", "qmul", *arguments])


def test_an_audit_of_what_was_recorded_passes(recorded):
    done = run_audit("--arms", "3", "--seed", "1")
    assert done.exit_code == 0, done.output
    assert "False" not in done.output
    lines = [line for line in done.output.splitlines() if line.lstrip().startswith("W4A4_random-5_")]
    assert len({line.split()[0] for line in lines}) == 3
    assert f"{len(lines)} of {len(lines)} numbers lie within" in done.output


def test_an_audit_finds_what_was_altered_together_with_manifest_and_rows(recorded):
    for seed in (0, 1):
        respoil(stored.file_of(PLAN.name, arm("Q-MUL", seed)), all_right)
    study._record(PLAN, [PLAN.source])
    study.recompute(PLAN)
    manifest.check()
    everything = len([arm for arm in PLAN.arms if PLAN.origin(arm)])
    done = run_audit("--arms", str(everything))
    assert done.exit_code == 1
    outside = [line for line in done.output.splitlines() if " False " in line]
    assert outside
    altered = {stored.name_of(arm("Q-MUL", seed)) for seed in (0, 1)}
    assert {line.split()[0] for line in outside} == altered


@pytest.mark.parametrize("count", ["0", "99"])
def test_an_audit_of_more_arms_than_there_are_is_refused(recorded, count):
    done = run_audit("--arms", count)
    assert done.exit_code == 1
    assert f"arms: got {count}, want from 1 to the" in done.output


def test_nothing_recorded_is_none_and_cannot_be_audited(use_data):
    use_data("empty")
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


def test_a_study_too_large_for_the_repository_is_refused_at_its_first_arm(use_data):
    folder = use_data("large")
    arrays = {"a": np.zeros(100_000, np.float16)}
    with pytest.raises(ValueError, match="study s: 200 arms like these take 40 MB, want at most 25"):
        stored.write("s", {"seed": 0}, arrays, {}, None, wanted=200, made_by="x")
    assert not (folder / "studies").exists()
    stored.write("s", {"seed": 0}, arrays, {}, None, wanted=100, made_by="x")
    assert stored.finished("s", [{"seed": 0}, {"seed": 1}]) == [{"seed": 0}]
    with pytest.raises(ValueError, match="want file names that differ, not a-b_0"):
        stored.finished("s", [{"name": name, "seed": 0} for name in ("a b", "a-b")])
