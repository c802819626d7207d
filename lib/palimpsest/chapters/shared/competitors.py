"""The table "who competes" of a chapter: every arm, what it does in one line, and where it comes from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd
from IPython.display import Markdown


@dataclass(frozen=True)
class Competitor:
    """`line`: what it does, in one sentence. `cite`: keys of `book/references.bib`, separated by commas; empty for
    what is of this book, a control or a part of another arm."""

    line: str
    cite: str = ""


def table(
    known: Mapping[str, Competitor],
    run: Iterable[str],
    names: Mapping[str, str] | None = None,
    counted: pd.DataFrame | None = None,
) -> Markdown:
    """The arms that were `run`, in the order of `known`, as MyST: a page cites in it.

    names: what an arm is called where it is not its key. counted: columns to add, numbers by arm; an arm that is not
    in its index gets a dash. Raises ValueError for an arm without a line.
    """
    run = set(run)
    if missing := sorted(run - known.keys()):
        raise ValueError(f"run: got {missing}, want arms that have a line: {sorted(known)}")
    names = names or {}
    columns = [] if counted is None else list(counted)
    rows = [["arm", "what it does", "source", *columns], ["---"] * (3 + len(columns))]
    for arm, competitor in known.items():
        if arm in run:
            source = f"{{cite:t}}`{competitor.cite}`" if competitor.cite else "–"
            cells = [f"{counted[c][arm]:.0f}" if arm in counted.index else "–" for c in columns]
            rows.append([names.get(arm, arm), competitor.line, source, *cells])
    return Markdown("\n".join("| " + " | ".join(row) + " |" for row in rows))
