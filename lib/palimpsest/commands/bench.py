"""`palimpsest bench`: kernels against their peers, the stages of selection, decoding."""

import os
from typing import Annotated

import typer

from palimpsest.data import manifest
from palimpsest.kernels import bench as kernel_bench
from palimpsest.runs import paths
from palimpsest.runs.files import write_atomic

from .failure import fail, needs_checkout


def bench(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    only: Annotated[list[str] | None, typer.Option(help="Operations; all when none is named.")] = None,
) -> None:
    """Measure kernels against their peers, the stages of selection, decoding, and what can be done with a model of
    one's own (doors), into data/bench."""
    needs_checkout("bench")
    os.environ.setdefault("PALIMPSEST_ARITHMETIC", "native")  # speed is that of the processor's own routines
    stages = ("selection", "decoding", "doors")
    ops = [name for name in only if name not in stages] if only else None
    try:
        files = [] if ops == [] else kernel_bench.run(ops, device, out=paths.DATA / "bench")
    except (ValueError, RuntimeError) as error:
        fail(str(error))
    tables = {}
    if device == "cpu" and (not only or "selection" in only):
        from palimpsest.chapters.jscds import cost

        tables["selection"] = cost.bench()
    if device == "cpu" and (not only or "decoding" in only):
        from palimpsest.chapters.sage import bench as decoding_bench

        tables |= decoding_bench.bench()
    if device == "cpu" and (not only or "doors" in only):
        from palimpsest.examine import doors

        tables["own_model"] = doors.bench()
    for name, table in tables.items():
        file = paths.DATA / "bench" / f"{name}.cpu.csv"
        write_atomic(file, lambda path, table=table: table.to_csv(path, index=False, float_format="%.6g"))
        files.append(file)
    manifest.update([file.relative_to(paths.DATA) for file in files])
    for file in files:
        typer.echo(file.relative_to(paths.ROOT))
