"""The `palimpsest` command."""

import importlib.util
import shutil
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from palimpsest import bootstrap, cli_decode, cli_unlearn, ledger, pages, paths, runs
from palimpsest.data import manifest
from palimpsest.experiments import jscds, jscds_cost, records, unlearning
from palimpsest.kernels import bench as kernel_bench

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


def _language(profile: str, chapter: str):
    """`execute` of a chapter on language models; imported here, since transformers takes seconds to come along."""
    size = "_full" if profile.startswith("full") else ""
    return importlib.import_module(f"palimpsest.experiments.{chapter}{size}").execute(profile)


EXPERIMENTS = {
    "sau": partial(_language, chapter="sau"),
    "jscds": jscds.run,
    "oeu": partial(unlearning.execute, chapter="oeu"),
    "qmul": partial(unlearning.execute, chapter="qmul"),
    "sage": partial(_language, chapter="sage"),
}


app.command()(cli_unlearn.unlearn)
app.command()(cli_decode.decode)


def _fail(message: str) -> None:
    typer.echo(f"palimpsest: {message}", err=True)
    raise typer.Exit(1)


@app.command()
def run(
    names: Annotated[list[str] | None, typer.Argument(help="Experiments; all when none is named.")] = None,
    profile: Annotated[str, typer.Option(help="smoke, ci, full, or a variant of full.")] = "ci",
    pending: Annotated[bool, typer.Option(help="Only experiments without recorded rows at this profile.")] = False,
) -> None:
    """Run experiments. Rows of `full` and its variants are recorded in data/results; the others fill the cache."""
    for name in names or EXPERIMENTS:
        if name not in EXPERIMENTS:
            _fail(f"experiment: got {name!r}, want one of {sorted(EXPERIMENTS)}")
        file = records.path_of(name, profile)
        if pending and file.exists():
            typer.echo(f"{name}: recorded in {file.relative_to(paths.ROOT)}")
            continue
        try:
            results = EXPERIMENTS[name](profile)
        except ValueError as error:
            _fail(str(error))
        if profile.startswith("full"):
            records.write(name, profile, results.tuned, results.runs)
        typer.echo(f"{name}: {len(results.runs)} rows at profile {profile}")


@app.command()
def claims(
    accept: Annotated[bool, typer.Option(help="Make the last measured values the accepted ones.")] = False,
    beside: Annotated[
        bool, typer.Option(help="Accept them as another processor's, beside what was accepted before.")
    ] = False,
) -> None:
    """Print every claim with its verdict."""
    if accept or beside:
        seconds = {
            file.stem.partition("_")[2]: float(file.read_text())
            for file in (paths.BUILD / "executed").glob("*.seconds")
        }
        for path in ledger.accept(seconds, beside=beside):
            typer.echo(f"accepted {path.relative_to(paths.ROOT)}")
    for claim in ledger.load():
        typer.echo(f"{claim.verdict:>15}  {claim.id:<20} {claim.measure}: {pages.measured(claim)}")


@app.command("pages")
def render_pages(
    readme: Annotated[bool, typer.Option(help="Also rewrite the claims table and the figure of README.md.")] = False,
) -> None:
    """Render the results and status pages from the ledger."""
    for path in pages.write():
        typer.echo(path.relative_to(paths.ROOT))
    if readme:
        file = paths.ROOT / "README.md"
        text = pages.readme_with_table(file.read_text(encoding="utf-8"))
        runs.write_atomic(file, lambda path: Path(path).write_text(text, encoding="utf-8"))
        figure = paths.ROOT / "book" / "_static" / pages.README_FIGURE[-1]
        runs.write_atomic(figure, lambda path: Path(path).write_text(pages.readme_figure(), encoding="utf-8"))


@app.command()
def bench(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    only: Annotated[list[str] | None, typer.Option(help="Operations; all when none is named.")] = None,
) -> None:
    """Measure kernels against their peers, the stages of selection, and decoding, into data/bench."""
    stages = ("selection", "decoding")
    ops = [name for name in only if name not in stages] if only else None
    try:
        files = [] if ops == [] else kernel_bench.run(ops, device, out=paths.DATA / "bench")
    except (ValueError, RuntimeError) as error:
        _fail(str(error))
    tables = {}
    if device == "cpu" and (not only or "selection" in only):
        tables["selection"] = jscds_cost.bench()
    if device == "cpu" and (not only or "decoding" in only):
        from palimpsest.experiments import sage_cost  # brings transformers along, which takes seconds

        tables |= sage_cost.bench()
    for name, table in tables.items():
        file = paths.DATA / "bench" / f"{name}.cpu.csv"
        runs.write_atomic(file, lambda path, table=table: table.to_csv(path, index=False, float_format="%.6g"))
        files.append(file)
    manifest.update([file.relative_to(paths.DATA) for file in files])
    for file in files:
        typer.echo(file.relative_to(paths.ROOT))


@app.command()
def data() -> None:
    """Check every file under data/ against the manifest, and list them."""
    try:
        manifest.check()
    except ValueError as error:
        _fail(str(error))
    for entry in manifest.read().values():
        typer.echo(f"{entry['bytes']:>10}  {entry['licence']:<12} {entry['path']}")


@app.command()
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
        "CUDA device (kernels compiled, profile full at speed)": torch.cuda.is_available(),
    }
    for name, found in optional.items():
        typer.echo(f"{'yes' if found else 'no ':>3}  {name}")
    for key, value in runs.environment().items():
        typer.echo(f"     {key}: {value}")
