"""`palimpsest doctor`: what this machine has."""

import importlib.util
import shutil

import torch
import typer

from palimpsest.runs import environment, paths

from . import bootstrap


def doctor() -> None:
    """Say what this machine has, and what each missing thing would be needed for."""
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
