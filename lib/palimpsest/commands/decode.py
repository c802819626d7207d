"""`palimpsest decode`: a text from a target and a drafter, and what each policy would have cost."""

import math
from pathlib import Path
from typing import Annotated

import typer

COLUMNS = (
    "policy        ",
    "same text",
    "target forwards",
    "draft forwards",
    "nodes per round",
    "accepted per round",
    "tokens/s",
    "time ratio",
)


def decode(
    prompt: Annotated[str, typer.Option(help="What to ask. For the shipped text pair, with facts behind it.")],
    target: Annotated[str | None, typer.Option(help="Folder of a model, or a hub identifier.")] = None,
    drafter: Annotated[str | None, typer.Option(help="The same; or lookup, recycling.")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture, for a target that takes one.")] = None,
    picture: Annotated[int | None, typer.Option(help="Or one of the shipped test pictures, from 0.")] = None,
    policy: Annotated[str, typer.Option(help="sage, chain, static, eagle2, opt_tree, …")] = "sage",
    max_new_tokens: Annotated[int, typer.Option(help="Longest text, in tokens.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token; other values draw.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    compare: Annotated[bool, typer.Option("--compare", help="Then the same request under every policy.")] = False,
) -> None:
    """Decode with a drafter; the text is that of the target alone, and is printed as it comes.

    Without --target the shipped pair answers: the vision-language pair with --image or --picture, else the text
    pair. Forwards count the prefills.

    --compare decodes twice under each policy and times the second: every policy has its own defaults, so that
    budgets differ, and `nodes per round` shows them. Tokens per second and the ratio of times to plain decoding leave
    the prefills out. The exit status is 1 where a text differs and the weights are float32 or float64, and 2 for
    input that cannot be meant.
    """
    # transformers takes seconds to import, which no other command should pay.
    from palimpsest.decoding import drop_in

    asked = drop_in.Arguments(prompt, target, drafter, image, picture, policy, max_new_tokens, temperature, seed)
    try:
        loaded = drop_in.load(asked)
        typer.echo(_counts(loaded.stream()))
        rows = _table(drop_in.compare(loaded)) if compare else []
    except ValueError as error:
        typer.echo(f"palimpsest: {error}", err=True)
        raise typer.Exit(2) from error
    if differing := [row.policy for row in rows if not row.same]:
        dtype = loaded.target.dtype
        typer.echo(f"palimpsest: in {dtype} another text than plain decoding's: {', '.join(differing)}", err=True)
        raise typer.Exit(1 if dtype in drop_in.EXACT else 0)


def _counts(output) -> str:
    stats = output.stats
    prefill = stats.times["prefill_target"] + stats.times["prefill_draft"]
    return (
        f"{len(output.tokens)} tokens, {stats.target_forwards} target forwards, {stats.draft_forwards} draft "
        f"forwards, {_number(stats.mean_accepted)} drafts accepted per round, {sum(stats.times.values()):.2f} s, "
        f"{prefill:.2f} s of it prefill"
    )


def _table(rows):
    """Print every row as it comes; returns them."""
    typer.echo("\n" + "  ".join(COLUMNS))
    seen = []
    for row in rows:
        typer.echo(_line(row))
        seen.append(row)
    return seen


def _line(row) -> str:
    stats = row.output.stats
    cells = (
        "yes" if row.same else "no",
        str(stats.target_forwards),
        str(stats.draft_forwards),
        _number(sum(stats.tree_sizes) / stats.rounds if stats.rounds else math.nan),
        _number(stats.mean_accepted),
        _number(row.tokens_per_second),
        _number(row.time_ratio),
    )
    widths = [len(name) for name in COLUMNS]
    first = row.policy.ljust(widths[0])
    return "  ".join([first, *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))])


def _number(value: float) -> str:
    """Two places; a dash where a text of one token has no rounds to count."""
    return "–" if math.isnan(value) else f"{value:.2f}"
