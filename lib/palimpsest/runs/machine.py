"""What a result was computed with: versions, machine and commit."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from palimpsest import arithmetic

from . import paths


def installed(package: str) -> str:
    """The version of `package`, or "absent"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


NUMERICAL = ("numpy", "scipy", "scikit-learn", "cleanlab", "transformers", "tokenizers")
"""Packages besides torch that compute or feed what is measured."""


def numerical_environment() -> dict:
    """What can change a result on the same source and data."""
    return {
        "torch": torch.__version__,
        **{name: installed(name) for name in NUMERICAL},
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "arithmetic": arithmetic.label(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def environment() -> dict:
    """The manifest stored beside recorded results: machine, versions and commit."""
    return {
        **numerical_environment(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "processor": processor(),
        "triton": installed("triton"),
        "commit": _commit(),
    }


def processor() -> str:
    """What this machine's processor calls itself; how matrix products are rounded depends on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    found = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    names = [found[name] for name in ("model name", "cpu family", "model") if name in found]
    return " ".join(names) or platform.machine()


def _commit() -> str:
    if paths.INSTALLED:  # a repository around it would be another project's
        return "unknown"
    command = ["git", "-C", str(paths.ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git, or no repository: an unpacked archive
        return "unknown"
