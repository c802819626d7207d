"""Recorded rows: what is written comes back, what was altered is refused, and which profiles are recorded."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from palimpsest.chapters.shared import records
from palimpsest.commands import main
from palimpsest.commands import run as run_command
from palimpsest.data import manifest
from palimpsest.runs import paths

ROWS = pd.DataFrame(
    [
        {"method": "retrain", "seed": 1, "FA": 0.5, "codes_changed": np.nan, "flow": [[1, 2], [3, 4]]},
        {"method": "OEU", "seed": 0, "FA": 0.1 + 0.2, "codes_changed": 0.25, "flow": [[0, 0], [0, 1]]},
    ]
)
TUNED = [{"profile": "ci", "precision": "W4A4", "method": "OEU", "value": 0.03}]


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "DATA", tmp_path)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    (tmp_path / manifest.NAME).write_text("[]\n")
    return tmp_path


def test_what_is_written_comes_back_and_is_guarded(data):
    file = records.write("qmul", "study", TUNED, ROWS)
    assert file == data / "results" / "qmul.rows.study.json"
    # Strict JSON: a missing number is null, which other readers take too.
    json.loads(file.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    found = records.read("qmul", "study")
    pd.testing.assert_frame_equal(found.pop("rows"), ROWS)
    assert found["command"] == "palimpsest run qmul --profile study"
    assert found["seeds"] == [0, 1]
    assert found["tuned"] == TUNED
    assert {"torch", "cpu", "cores", "commit"} <= found["environment"].keys()
    manifest.check()
    file.write_text(file.read_text().replace("0.25", "0.26"))
    with pytest.raises(ValueError, match=r"results/qmul.rows.study.json"):
        records.read("qmul", "study")


def test_a_page_says_that_rows_have_no_predictions(capsys):
    records.write("qmul", "study", TUNED, ROWS)
    capsys.readouterr()
    records.shown("qmul", "study")
    assert "its rows alone: predictions were not kept" in capsys.readouterr().out


def test_nothing_recorded_is_none():
    assert records.read("qmul", "study") is None


class Done:
    rows, tuned = ROWS, TUNED


@pytest.mark.parametrize(("profile", "kept"), [("ci", False), ("smoke", False), ("study", True), ("paper", True)])
def test_rows_of_long_profiles_are_recorded_and_the_others_are_not(monkeypatch, profile, kept):
    calls = []
    monkeypatch.setitem(run_command.EXPERIMENTS, "sau", lambda name: calls.append(name) or Done)
    run = CliRunner().invoke(main.app, ["run", "sau", "--profile", profile])
    assert run.exit_code == 0, run.output
    assert records.path_of("sau", profile).exists() == kept
    again = CliRunner().invoke(main.app, ["run", "sau", "--profile", profile, "--pending"])
    assert ("recorded in" in again.output) == kept
    assert calls == [profile] * (1 if kept else 2)
