"""The study of JSCDS at tiny size: its arms are computed, measured again, and go on from stored subsets."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from palimpsest import runs, training
from palimpsest.chapters.jscds import cohort, study
from palimpsest.chapters.jscds.cohort import CLEAN, NOISY, PROFILES
from palimpsest.chapters.jscds.experiment import AGAIN, FULL, Arm
from palimpsest.chapters.shared import stored
from palimpsest.chapters.shared import study as studies
from palimpsest.commands.run import plan_of
from palimpsest.data import manifest
from palimpsest.runs import cache, paths

ARMS = [FULL, AGAIN, Arm("jscds"), Arm("early jscds"), Arm("random"), Arm("jscds", 0.7), Arm("jscds", 0.5, "updates")]
JUDGED = {"condition": NOISY.name, "method": "jscds", "fraction": 0.5, "matched": "epochs", "lr": 0.3, "seed": 1}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Seven arms of two seeds, in a folder of data of their own."""
    cohort.dataset("fashion-mnist"), cache._shipped()  # read from the repository's own folder
    small = replace(PROFILES["smoke"], samples=100, validation=40, test=40, seeds=(0, 1), epochs=1)
    monkeypatch.setitem(PROFILES, "study", small)
    monkeypatch.setattr(study, "plan", lambda: ARMS)

    def in_process(call, arguments, *, name, done):
        return [done(found) for found in map(call, arguments)]

    monkeypatch.setattr(runs, "spread", in_process)
    data = tmp_path / "data"
    data.mkdir()
    (data / manifest.NAME).write_text("[]\n")
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    for name in ("DATA", "ROOT"):
        monkeypatch.setattr(paths, name, data)
    return small


@pytest.mark.slow
def test_the_rows_are_what_the_predictions_give(tiny):
    table = studies.run(study.PLAN)
    assert len(table) == 2 * len(ARMS) * 2 * 2
    assert not table[["accuracy", "validation", "wrong_kept"]].isna().any(axis=None)
    assert (table.kept[table.fraction == 1] == 100).all()
    assert table.wrong_kept[(table.fraction == 1) & (table.condition == NOISY.name)].tolist() == pytest.approx(
        [0.2] * 8
    )
    assert (table.wrong_kept[table.condition == CLEAN.name] == 0).all()
    again = studies.recompute(study.PLAN)
    assert again.equals(table)
    row = table.query("condition == @NOISY.name and method == 'jscds' and fraction == 0.5 and matched == 'epochs'")
    row = row[(row.lr == 0.3) & (row.seed == 1)].iloc[0]
    labels = cohort.test_split(tiny).labels.numpy()
    assert row.accuracy == (stored.predictions(study.NAME, JUDGED)["test"] == labels).mean()
    full = table.query("condition == @NOISY.name and method == 'full' and lr == 0.1 and seed == 1").iloc[0]
    assert full.gain == 0
    assert row.gain == pytest.approx(100 * (row.accuracy - full.accuracy), abs=1e-9)
    manifest.check()

    # An arm computed once more starts from the stored subset and names the same classes.
    (outcome,) = study.compute([JUDGED])
    np.testing.assert_array_equal(outcome.predictions["test"], stored.predictions(study.NAME, JUDGED)["test"])
    kept = study._kept(JUDGED, 100)
    chosen = cohort.Cohort(tiny, NOISY, [1])
    expected = study.chosen_by(chosen, [Arm("jscds")])["jscds 0.5"][0]
    assert torch.equal(kept, expected)


def test_an_arm_that_diverges_is_an_outcome(tiny, monkeypatch):
    monkeypatch.setattr(study, "_kept", lambda arm, samples: torch.arange(50))

    def diverging(*arguments, **options):
        raise training.TrainingDiverged("the loss is nan")

    monkeypatch.setattr(training, "fit", diverging)
    outcomes = study.compute([JUDGED | {"seed": seed} for seed in (0, 1)])
    assert [(o.predictions, o.counted) for o in outcomes] == [({}, {"diverged": "the loss is nan"})] * 2


def test_an_error_that_is_no_divergence_is_none(tiny, monkeypatch):
    monkeypatch.setattr(study, "_kept", lambda arm, samples: torch.arange(50))
    monkeypatch.setattr(training, "fit", lambda *arguments, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        study.compute([JUDGED])


def test_the_command_knows_the_study():
    assert plan_of("jscds") is study.PLAN
