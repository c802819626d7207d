"""Commands in an installed package, and without data: what they cannot do is said, in one line."""

import pytest
from typer.testing import CliRunner

from palimpsest.commands.main import app
from palimpsest.data import manifest
from palimpsest.runs import machine, paths


@pytest.mark.parametrize("command", ["pages", "accept sau", "bench", "run --profile study", "run --profile paper"])
def test_what_writes_beside_the_chapters_needs_a_checkout(monkeypatch, command):
    monkeypatch.setattr(paths, "INSTALLED", True)
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 1
    assert done.stderr == (
        f"palimpsest: {command.removesuffix(' sau')} needs a checkout of the project; "
        f"this is the package installed in {paths.ROOT}\n"
    )


def test_claims_that_are_not_there_are_no_empty_list(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "DATA", tmp_path)
    done = CliRunner().invoke(app, ["claims"])
    assert done.exit_code == 1
    assert f"{tmp_path / 'claims'} holds no claims; PALIMPSEST_DATA" in done.stderr


def test_a_file_that_the_package_leaves_out_is_said_to_be_in_a_checkout(monkeypatch):
    monkeypatch.setattr(paths, "INSTALLED", True)
    with pytest.raises(
        ValueError, match="not in MANIFEST; a checkout has it: set PALIMPSEST_DATA to its folder data"
    ):
        manifest.verify("sau_models/none.safetensors")


def test_the_repository_around_an_installed_package_is_not_its_commit(monkeypatch):
    monkeypatch.setattr(paths, "INSTALLED", True)
    assert machine.environment()["commit"] == "unknown"
