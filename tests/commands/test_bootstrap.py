"""Setting up on a bare machine: what is missing is named."""

import ast
import sys
from pathlib import Path

import pytest

from palimpsest.commands import bootstrap

SOURCE = Path(bootstrap.__file__).read_text(encoding="utf-8")


def test_needs_nothing_installed():
    imports = [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports}
    assert names <= sys.stdlib_module_names


def test_an_older_python_can_read_it():
    ast.parse(SOURCE, feature_version=(3, 7))


def test_this_python_fits():
    assert bootstrap.find_python() == sys.executable


def test_no_fitting_python_is_named(monkeypatch):
    monkeypatch.setattr(bootstrap, "LOWEST", (9, 0))
    monkeypatch.setattr(bootstrap, "BEYOND", (9, 1))
    with pytest.raises(bootstrap.Missing, match=r"Python 3\.11, 3\.12 or 3\.13 is needed"):
        bootstrap.find_python()


def test_too_little_disk_is_named_with_folder_and_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(bootstrap, "DISK_GB", 10**9)
    with pytest.raises(bootstrap.Missing) as caught:
        bootstrap.preflight(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "GB free" in str(caught.value)
    assert f"need {10**9} GB" in str(caught.value)


def test_missing_git_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(bootstrap, "DISK_GB", 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(bootstrap.Missing, match="git is not installed"):
        bootstrap.preflight(tmp_path)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "error: Failed to fetch: `https://index.test/simple/x/`\ncause: dns error",
            "https://index.test/simple/x/",
        ),
        ("ERROR: No matching distribution found for uv", "could not reach the package index"),
        ("OSError: [Errno 28] No space left on device", "ran full"),
        ("error: something else", "printed above"),
    ],
)
def test_failures_are_explained(said, reason):
    assert reason in bootstrap.reason("the packages", said)


def test_a_failing_step_says_why_and_shows_what_was_said(capfd):
    script = "import sys; print('dns error', file=sys.stderr); sys.exit(3)"
    with pytest.raises(bootstrap.Missing, match="could not reach the package index"):
        bootstrap.step("a step", [sys.executable, "-c", script])
    shown = capfd.readouterr()
    assert "[env] a step" in shown.out
    assert "dns error" in shown.err


def test_pip_settings_reach_uv(monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "/wheels /more")
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.test/simple")
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://chosen.test/simple")
    settings = bootstrap.index_settings(sys.executable)
    assert settings["UV_FIND_LINKS"] == "/wheels,/more"
    assert settings["UV_DEFAULT_INDEX"] == "https://chosen.test/simple"


def test_an_interrupted_install_starts_from_an_empty_folder(tmp_path, monkeypatch):
    venv = tmp_path / ".venv"
    venv.mkdir()
    (venv / "half-installed").touch()
    monkeypatch.setattr(bootstrap, "VENV", venv)
    monkeypatch.setattr(bootstrap, "STAMP", venv / ".installed")
    monkeypatch.setattr(bootstrap, "DISK_GB", 0)
    monkeypatch.setattr(bootstrap, "find_uv", lambda python: "uv")
    monkeypatch.setattr(bootstrap, "step", lambda what, command, environment=None: venv.mkdir(exist_ok=True))
    bootstrap.install()
    assert [path.name for path in venv.iterdir()] == [".installed"]


def test_a_failed_install_leaves_no_stamp(tmp_path, monkeypatch):
    venv = tmp_path / ".venv"
    venv.mkdir()
    (venv / ".installed").touch()

    def fail(what, command, environment=None):
        raise bootstrap.Missing(what)

    monkeypatch.setattr(bootstrap, "VENV", venv)
    monkeypatch.setattr(bootstrap, "STAMP", venv / ".installed")
    monkeypatch.setattr(bootstrap, "DISK_GB", 0)
    monkeypatch.setattr(bootstrap, "find_uv", lambda python: "uv")
    monkeypatch.setattr(bootstrap, "step", fail)
    with pytest.raises(bootstrap.Missing):
        bootstrap.install()
    assert not (venv / ".installed").exists()
