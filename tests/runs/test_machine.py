"""What a result was computed with."""

from palimpsest import runs
from palimpsest.runs import machine, paths


def test_the_environment_names_what_results_depend_on(tmp_path, monkeypatch):
    record = runs.environment()
    assert machine.numerical_environment().items() <= record.items()
    assert {"torch", *machine.NUMERICAL, "cpu", "arithmetic", "device"} == set(machine.numerical_environment())
    assert {"python", "system", "cores", "triton", "commit"} <= set(record)
    monkeypatch.setattr(paths, "ROOT", tmp_path)  # no repository
    assert runs.environment()["commit"] == "unknown"
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert runs.environment()["commit"] == "unknown"


def test_a_package_that_is_not_installed_is_absent():
    assert machine.installed("torch") != "absent"
    assert machine.installed("no-such-package-of-anyone") == "absent"
