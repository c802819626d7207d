"""What the dev container and Binder call is there, and their Python is one that the project takes."""

import json
import os
import re
import tomllib

import pytest
from packaging.specifiers import SpecifierSet

from palimpsest.commands import bootstrap
from palimpsest.runs.paths import ROOT

CONTAINER = ROOT / ".devcontainer" / "devcontainer.json"
SCRIPTS = [ROOT / ".binder" / name for name in ("postBuild", "start")]


def test_the_dev_container_points_at_the_environment_that_it_makes():
    said = json.loads(CONTAINER.read_text("utf-8"))
    python = said["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    made = bootstrap.VENV / "bin" / "python"
    assert python == "${containerWorkspaceFolder}/" + made.relative_to(bootstrap.ROOT).as_posix()


@pytest.mark.parametrize("file", [CONTAINER, SCRIPTS[0]], ids=lambda path: path.name)
def test_commands_are_targets_of_the_makefile(file):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", file.read_text("utf-8"))) == {"env"} <= targets


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda path: path.name)
def test_binder_can_run_its_scripts(file):
    assert os.access(file, os.X_OK)
    assert file.read_text("utf-8").startswith("#!/usr/bin/env bash\n")


def test_binder_starts_what_the_environment_holds():
    folder = re.search(r'PATH="\$PWD/([^:]+):', SCRIPTS[1].read_text("utf-8"))[1]
    assert ROOT / folder == bootstrap.VENV / "bin"
    assert (ROOT / folder / "jupyter-lab").exists()


@pytest.mark.parametrize(
    ("file", "version"),
    [(CONTAINER, r"python:([\d.]+)"), (ROOT / ".binder" / "runtime.txt", r"python-([\d.]+)")],
    ids=["devcontainer", "binder"],
)
def test_their_python_is_accepted(file, version):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert re.search(version, file.read_text("utf-8"))[1] in SpecifierSet(project["requires-python"])
