"""Create `.venv` from `requirements.lock`: what `make env` runs on a bare Python.

An install that was interrupted leaves no stamp, and the next run starts from an empty `.venv`.

Why not `uv sync` with `uv.lock`: such a lock can be made, and installs. But it holds the address of every file, and
a frozen sync asks those addresses alone, so it passes over the mirror or folder of wheels that a reader's pip is set
up for (`index_settings`). On Linux it also fixes torch's build for CUDA, 2.7 of 3.1 GB to fetch and 5.5 GB on disk,
where requirements.lock admits the CPU build as well. Conda's pip, which `environment.yml` calls, does not read it.
"""

# An older Python must be able to read this file, to say that it is too old.
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
VENV = ROOT / ".venv"
STAMP = VENV / ".installed"
LOWEST, BEYOND = (3, 11), (3, 14)
DISK_GB = 6
UNREACHABLE = re.compile(
    r"dns error|name resolution|resolve host|error sending request|connection (?:refused|reset|error)"
    r"|timed out|network is unreachable|NewConnectionError|tcp connect|No matching distribution found",
    re.IGNORECASE,
)


class Missing(Exception):
    """Something that the environment needs is not there; the text says what, and what to do."""


def find_python() -> str:
    """A Python from 3.11 to 3.13: this one if it fits, else the first on the search path that does."""
    probe = f"import sys; sys.exit(not {LOWEST} <= sys.version_info[:2] < {BEYOND})"
    for name in (sys.executable, "python3.11", "python3.12", "python3.13"):
        path = shutil.which(name)
        if path and subprocess.run([path, "-c", probe], stderr=subprocess.DEVNULL).returncode == 0:
            return path
    raise Missing(
        f"Python 3.11, 3.12 or 3.13 is needed; {sys.executable} is {sys.version.split()[0]} "
        "and no other was found. Name one with `make env PYTHON=/path/to/python3.11`"
    )


def preflight(folder: Path = ROOT) -> None:
    """Raise `Missing` if `folder` has no room for the environment or git is not installed."""
    free = shutil.disk_usage(folder).free / 1e9
    if free < DISK_GB:
        raise Missing(f"disk: {folder} has {free:.1f} GB free; the environment and the book need {DISK_GB} GB")
    if shutil.which("git") is None:
        raise Missing("git is not installed; results are recorded with the commit that made them")


def index_settings(python: str) -> dict[str, str]:
    """This process's environment, plus pip's own index and wheel folders under the names that uv reads."""
    environment = dict(os.environ)
    for option, variable in (("find-links", "UV_FIND_LINKS"), ("index-url", "UV_DEFAULT_INDEX")):
        value = os.environ.get("PIP_" + option.upper().replace("-", "_"))
        if not value:
            command = [python, "-m", "pip", "config", "get", f"global.{option}"]
            value = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        if value.strip():
            environment.setdefault(variable, ",".join(value.split()))
    return environment


def step(what: str, command: list, environment: dict[str, str] | None = None) -> None:
    """Run one command, showing what it says; raise `Missing` with the reason if it fails."""
    print(f"[env] {what}", flush=True)
    process = subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True, env=environment)
    said = []
    for line in process.stderr:
        sys.stderr.write(line)
        said.append(line)
    if process.wait():
        raise Missing(reason(what, "".join(said)))


def reason(what: str, said: str) -> str:
    """Why a step failed, from what its command said."""
    if "No space left on device" in said:
        return f"disk: {ROOT} ran full while this was under way: {what}"
    if UNREACHABLE.search(said):
        address = re.search(r"https?://[^\s`'\")]+", said)
        return (
            f"could not reach the package index{' at ' + address[0] if address else ''}, "
            f"which this needs once: {what}. A mirror or a folder of wheels can be named with "
            "`pip config set global.index-url URL` or `pip config set global.find-links FOLDER`"
        )
    return f"this failed, for the reason printed above: {what}"


def find_uv(python: str) -> str:
    """uv from the search path, or one installed into `.uv` with pip."""
    own = ROOT / ".uv"
    found = shutil.which("uv")
    if found or (own / "bin" / "uv").exists():
        return found or str(own / "bin" / "uv")
    shutil.rmtree(own, ignore_errors=True)
    try:
        step("a folder for the installer", [python, "-m", "venv", own])
    except Missing as error:
        raise Missing(f"{error} (on Debian and Ubuntu the package python3-venv is needed)") from error
    step("the installer (uv)", [own / "bin" / "python", "-m", "pip", "install", "--quiet", "uv"])
    return str(own / "bin" / "uv")


def install() -> None:
    """Fill `.venv` from the lock, add this project, and leave the stamp that `make` looks at."""
    python = find_python()
    preflight()
    uv = find_uv(python)
    environment = index_settings(python)
    if STAMP.exists():
        STAMP.unlink()
    else:
        shutil.rmtree(VENV, ignore_errors=True)
        step("an empty .venv", [uv, "venv", "--quiet", "--python", python, VENV])
    target = [uv, "pip", "install", "--python", VENV / "bin" / "python"]
    step("the packages of requirements.lock", [*target, "-r", ROOT / "requirements.lock"], environment)
    # setuptools came with the lock, so building this project asks the index for nothing.
    step("palimpsest itself", [*target, "--no-deps", "--no-build-isolation", "-e", ROOT], environment)
    STAMP.touch()


if __name__ == "__main__":
    try:
        install()
    except Missing as error:
        sys.exit(f"[env] {error}")
