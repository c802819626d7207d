"""requirements.in, requirements.lock, environment.yml and what is installed name the same versions."""

import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from palimpsest.runs.paths import ROOT


def _requirements(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def _applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate()


LOCK = _requirements("requirements.lock")


@pytest.mark.parametrize("requirement", [r for r in LOCK if _applies(r)], ids=lambda r: r.name)
def test_installed_is_what_the_lock_says(requirement):
    installed = Version(metadata.version(requirement.name))
    # `2.13.0+cpu` is a build of 2.13.0: the lock names the version, the index or a wheel folder the build.
    assert Version(installed.public) in requirement.specifier


def test_the_lock_pins_every_package_exactly():
    assert LOCK
    assert [str(r) for r in LOCK if [s.operator for s in r.specifier] != ["=="]] == []


def test_the_lock_satisfies_what_is_asked_for():
    for wanted in _requirements("requirements.in"):
        pins = [r for r in LOCK if canonicalize_name(r.name) == canonicalize_name(wanted.name)]
        assert pins, f"{wanted.name} is asked for and not locked"
        for pin in pins:
            version = next(iter(pin.specifier)).version
            assert Version(version) in wanted.specifier, f"{wanted} is locked at {version}"


def test_conda_environment_defers_to_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    names = {str(item).partition("=")[0] for item in environment["dependencies"] if isinstance(item, str)}
    assert {"python", "pip"} <= names
    assert [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)] == [
        ["-r requirements.lock"]
    ]


def test_conda_python_is_one_the_project_accepts():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python = next(item for item in environment["dependencies"] if str(item).startswith("python="))
    wanted = Requirement(f"python{project['requires-python']}").specifier
    assert Version(python.partition("=")[2]) in wanted


def test_project_dependencies_are_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locked = {canonicalize_name(r.name) for r in LOCK}
    assert {canonicalize_name(Requirement(d).name) for d in project["dependencies"]} <= locked
