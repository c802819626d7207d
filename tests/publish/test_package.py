"""What `pip install` gives: the wheel holds what its commands read, and asks for what they import."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import palimpsest
from palimpsest import ledger
from palimpsest.build import wheel
from palimpsest.commands import bootstrap
from palimpsest.data import manifest
from palimpsest.runs.paths import DATA, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
OF_THE_CHECKOUT = (
    "build/",
    *(
        f"publish/{name}.py"
        for name in (
            *("access", "finish", "formulas", "gates", "heads", "kernel", "lettering", "pdf", "site", "sitecheck"),
            *("stylesheets", "weight"),
        )
    ),
)
"""Files that work on a checkout alone, with the environment of `make env`."""
MEGABYTES = 30
TEXTS = [ROOT / "README.md", *(ROOT / "book").glob("*.md"), *(ROOT / "lib").rglob("*.py")]


def imports(file: Path) -> set[str]:
    """The packages that a module imports wherever it is imported itself."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"palimpsest", "triton"}


def test_whatever_is_imported_is_a_dependency():
    asked = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    makers = metadata.packages_distributions()
    lacking = {}
    for package in map(Path, palimpsest.__path__):
        for file in package.rglob("*.py"):
            if not file.relative_to(package).as_posix().startswith(OF_THE_CHECKOUT):
                for name in imports(file):
                    if asked.isdisjoint(map(canonicalize_name, makers.get(name, [name]))):
                        lacking[name] = file.name
    assert lacking == {}


def test_hints_name_this_distribution_and_its_extras():
    named = {hint for text in TEXTS for hint in re.findall(r"palimpsest[\w-]*\[\w+\]", text.read_text("utf-8"))}
    assert named
    assert named <= {f"{PROJECT['name']}[{extra}]" for extra in EXTRAS}


def test_what_is_shipped_is_whole_without_what_is_left_out(tmp_path):
    source, target = tmp_path / "data", tmp_path / "shipped"
    for name in ("claims/x.yaml", f"{wheel.LEFT_OUT[0]}/big", "bench/.half"):
        (source / name).parent.mkdir(parents=True)
        (source / name).write_text(name)
    manifest.update(["claims/x.yaml", f"{wheel.LEFT_OUT[0]}/big"], root=source)
    (target / "claims").mkdir(parents=True)
    (target / "claims" / "of an older build").touch()
    wheel.ship(source, target)
    manifest.check(root=target)
    assert list(manifest.read(target)) == ["claims/x.yaml"]
    assert sorted(path.name for path in target.rglob("*") if path.is_file()) == ["MANIFEST", "x.yaml"]


def test_a_source_without_data_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no MANIFEST, want the checkout's data/"):
        wheel.ship(tmp_path, tmp_path / "shipped")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of commands of an empty environment into which the wheel was installed, and the wheel."""
    folder = tmp_path_factory.mktemp("package")
    source, environment = folder / "source", folder / "environment"
    uv, settings = bootstrap.find_uv(sys.executable), bootstrap.index_settings(sys.executable)

    def run(*command: str | Path) -> subprocess.CompletedProcess:
        return subprocess.run([uv, *map(str, command)], env=settings, cwd=folder, capture_output=True, text=True)

    # From a copy: setuptools leaves files beside what it builds.
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-TEXT"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "lib", source / "lib", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copytree(DATA, source / "data")
    # setuptools came with the lock, so building asks the index for nothing.
    built = run("build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder, source)
    assert not built.returncode, built.stderr
    (file,) = folder.glob("*.whl")
    run("venv", "--python", sys.executable, environment)
    install = ["pip", "install", "--python", environment / "bin" / "python", "-c", ROOT / "requirements.lock", file]
    done = run(*install, "--offline")  # the cache has what `make env` installed
    if done.returncode:
        done = run(*install)
    assert not done.returncode, done.stderr
    # With the bytecode of the same files here: a Python compiles anew only what is of another time or size.
    ours = Path(sysconfig.get_path("purelib"))
    its = environment / ours.relative_to(sys.prefix)
    for compiled in ours.rglob("__pycache__"):
        if (its / compiled.relative_to(ours)).parent.is_dir():
            shutil.copytree(compiled, its / compiled.relative_to(ours))
    return environment / "bin", file


@pytest.mark.slow
def test_the_installed_commands_run_outside_of_the_checkout(installed, tmp_path):
    commands, file = installed
    assert file.stat().st_size < MEGABYTES * 10**6
    unset = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PALIMPSEST_DATA", "PALIMPSEST_CACHE")
    clean = {name: value for name, value in os.environ.items() if name not in unset} | {"HOME": str(tmp_path)}

    def said(*arguments: str, code: int = 0) -> str:
        command = [commands / "palimpsest", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    help_text = said("--help")
    assert {"decode", "unlearn", "claims", "doctor"} <= set(help_text.split())
    listed = re.findall(r"^ *[a-z]+(?: [a-z]+)*  ([\w-]+) ", said("claims"), re.MULTILINE)
    assert listed == [claim.id for claim in ledger.load()]
    said_of_it = said("decode", "--picture", "7", "--prompt", "Describe the item.", "--max-new-tokens", "16")
    assert "16 tokens" in said_of_it
    assert re.match(r"This is an? \w+\. ", said_of_it)
