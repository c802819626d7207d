"""`palimpsest doctor`: what this machine has, and whether it computes what the accepted values were computed with."""

import importlib.util
import platform
import shutil
from collections.abc import Iterator

import torch
import typer

from palimpsest import arithmetic
from palimpsest.runs import digest, environment, machine, paths

from . import bootstrap


def doctor() -> None:
    """Say what this machine has, what each missing thing would be needed for, and whether its arithmetic agrees."""
    try:
        bootstrap.preflight(paths.ROOT)
        typer.echo("python, git and disk: as needed")
    except bootstrap.Missing as error:
        typer.echo(str(error))
    optional = {
        "node (parses every formula in the site check)": shutil.which("node"),
        "C++ compiler (torch.compile, a peer in the benchmarks)": shutil.which("c++") or shutil.which("g++"),
        "triton (compiled and interpreted kernels)": importlib.util.find_spec("triton"),
        "CUDA device (kernels compiled, profile study at speed)": torch.cuda.is_available(),
    }
    for name, found in optional.items():
        typer.echo(f"{'yes' if found else 'no ':>3}  {name}")
    for key, value in environment().items():
        typer.echo(f"     {key}: {value}")
    typer.echo(f"pinned arithmetic on {machine.processor()}, beside the committed digests:")
    for line in agreement():
        typer.echo(f"     {line}")


def agreement() -> Iterator[str]:
    """A line for each piece of the digest, whether it agrees here; what a difference means, and other versions."""
    if platform.machine().lower() not in arithmetic.X86:
        yield f"not compared: {platform.machine()} has none of the routines; compare within the seeds' interval"
        return
    try:
        found, committed = digest.fresh(), digest.committed()
    except RuntimeError as error:
        yield f"not compared: {error}"
        return
    for name, value in committed["digests"].items():
        agrees = found["digests"][name] == value
        yield f"agrees   {name}" if agrees else f"differs  {name}: chapters may print other values here"
    for name, version in committed["versions"].items():
        if found["versions"][name] != version:
            yield f"another version, which may be why: {name} {found['versions'][name]}, committed with {version}"
