"""Each target of the Makefile is described, and the documents name no other."""

import os
import re
import subprocess

import pytest

from palimpsest.runs.paths import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "book").glob("*.md"))]


def test_targets_are_those_of_the_design():
    promised = "env book test lab practice chapter quick claims bench drills study pdf archive clean lock help"
    assert set(promised.split()) == TARGETS


def test_help_describes_each_target():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    described = dict(re.findall(r"^ +make ([a-z]+) +(\S.*)$", shown, re.MULTILINE))
    assert set(described) == TARGETS


def test_help_is_the_default():
    shown = [subprocess.run(["make", *goal], cwd=ROOT, capture_output=True).stdout for goal in ([], ["help"])]
    assert shown[0] == shown[1]


def test_every_target_is_phony():
    assert set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split()) == TARGETS


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_only_real_targets(document):
    named = re.findall(r"(?:^|`)make ([a-z]+)", document.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(named) <= TARGETS


def test_chapter_asks_for_its_number():
    # `-o` takes the environment as installed, so that the recipe alone is tested.
    command = ["make", "-o", ".venv/.installed", "chapter"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode
    assert "make chapter CH=04" in done.stderr


def test_ci_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert lines[-1] == "make test"
