"""What every page of the book does alike: how it begins, its verdicts, its provenance."""

import gc
import re
import warnings
from collections.abc import Callable
from html import escape

import pandas as pd
import torch
from IPython.display import HTML

from palimpsest import claims_figure, figures, findings, kernels, ledger, runs
from palimpsest.chapters.shared.profiles import choose
from palimpsest.ledger import Judgement
from palimpsest.papers import CHAPTERS, PAPERS


def opening(paper: str) -> HTML:
    """The first screen of the chapter on `paper`, the stem of its files, or on the neighbours: what held in two
    sentences, how large the test was, and the figure of its claims.

    It shows what was accepted, as the cells of the claims do. So it does not wait for the run below it, and a run
    that comes out otherwise is seen there. Raises ValueError for an unknown paper.
    """
    if paper not in CHAPTERS:
        raise ValueError(f"paper: got {paper!r}, want one of {sorted(CHAPTERS)}")
    claims = findings.of(ledger.load(), paper)
    tally = findings.held(claims, "the paper’s") if paper in PAPERS else findings.tally(claims)
    said = f"{tally} {findings.main_claim(claims, paper)}"
    facts = " · ".join(filter(None, [findings.effort(claims), f"read: {CHAPTERS[paper].read}", "toy models"]))
    return HTML(
        f"<p><b>What held here.</b> {escape(said)}</p>\n<p>{escape(facts)}</p>\n"
        f"{claims_figure.figure(claims, '../what_held.html')}"
    )


def found(*names: str) -> HTML:
    """What became of these claims, a sentence each that leads to the claim's card: what was accepted, for a page that
    judges none itself. Raises ValueError for an unknown claim."""
    known = {claim.id: claim for claim in ledger.load()}
    for name in names:
        if name not in known:
            raise ValueError(f"names: got {name!r}, want some of {sorted(known)}")
    rows = [
        f'<li>{findings.MARK[claim.verdict]} <a href="../what_held.html#{claim.id}">'
        f"{escape(findings.quoted(claim))}</a> {escape(findings.became(claim))}</li>"
        for claim in (known[name] for name in names)
    ]
    return HTML("\n".join(["<ul>", *rows, "</ul>"]))


def passage(text: str) -> HTML:
    """A paragraph whose places, such as `[[sau-best inconclusive]]`, hold what was accepted for a claim of another
    chapter. Raises ValueError as `findings.place` does."""
    claims = ledger.load()

    def put(place: re.Match) -> str:
        value, claim = findings.place(place[1], claims)
        return f'(<a href="../what_held.html#{claim.id}">{escape(value)}</a>)'

    return HTML(f"<p>{findings.PLACE.sub(put, escape(text))}</p>")


def begin(profile: str, settings: dict):
    """`settings[profile]`, or a ValueError that lists the profiles there are; draws and computes as every page does
    from here on."""
    setting = choose(profile, settings)
    prepare()
    return setting


def prepare() -> None:
    """Draw and compute as every page does from here on; for a page of one size, which has no profiles."""
    torch.set_num_threads(1)  # sums in one order, so that two runs print the same digits
    figures.style()
    # The interpreter computes masked lanes too, and numpy warns of results nobody stores.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="triton")


class Verdicts:
    """The claims of a paper as this run judges them. At profile smoke none is judged.

    setting: what they are judged in, in words. judge: makes the judgements, by claim, of what the page `found`.
    """

    def __init__(self, paper: str, profile: str, setting: str, judge: Callable[..., dict[str, Judgement]], *found):
        self.paper, self.profile, self.setting = paper, profile, setting
        # What was imported and computed stays: statsmodels, which judging asks hundreds of times, collects garbage at
        # every correction for several tests, half a second each time where it looks through all that is held.
        gc.collect()
        gc.freeze()
        self.judged = {} if profile == "smoke" else judge(*found)

    def show(self, claim: str) -> None:
        """Print what the ledger reports of one claim."""
        print(ledger.report(self.judged[claim]) if self.judged else f"{claim}: not judged at profile {self.profile}")

    def record(self) -> HTML | None:
        """Write the judgements where the ledger finds them, and give them as a table."""
        if not self.judged:
            return None
        ledger.record(self.paper, self.profile, self.setting, list(self.judged.values()))
        return figures.table(figures.claims_table(self.judged))


def provenance(profile: str, experiment: Callable | None, further: dict[str, str]) -> HTML:
    """What a page was computed with, as a table: versions and machine, the data that `experiment` can read (None: it
    runs none), and what else there is to say of it."""
    environment = runs.environment()
    del environment["commit"]  # the ledger records it; here it would change the page without a change of content
    environment |= {"profile": profile, "kernel backend": kernels.last_backend()}
    if experiment is not None:
        environment["shipped data, sha256"] = runs.shipped(experiment)[:16]
    return figures.table(pd.DataFrame((environment | further).items(), columns=["what", "value"]))
