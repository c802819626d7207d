"""Verdicts of the chapter on SAU on made-up rows in which the answer is known."""

import numpy as np
import pandas as pd
import pytest

from palimpsest.chapters.sau import claims, search
from palimpsest.chapters.sau.arms import DENSE, Arm
from palimpsest.chapters.sau.experiment import Results
from palimpsest.chapters.sau.measures import compared
from palimpsest.chapters.sau.profiles import JUDGED_AT, MAIN, SPARSITIES

SEEDS = (0, 1, 2)


def results(gaps: dict, *, searched_apart: str | None = None, **more) -> Results:
    """Runs in which the arm `kind` at `sparsity` closes `gaps[kind](sparsity)` of the gap in every seed, with
    a little noise, the same for all arms of a seed; the search saw the same, but for `searched_apart`, which closed a
    tenth more there."""
    noise = dict(zip(SEEDS, (-0.01, 0.0, 0.01), strict=True))
    shares = {"0.5": 0.5, "0.7": 0.7, "2:4": 0.5}
    rows = []

    def add(kind, pruner, sparsity, value, loss=MAIN):
        for seed in SEEDS:
            row = {"loss": loss, "kind": kind, "pruner": pruner, "sparsity": sparsity, "seed": seed}
            left = 1 - value - noise[seed]
            examined = {"4-bit": 0.5, "utility": 0.8, "factor": 1.5}
            sparse = kind not in ("A", "E", "target", "oracle")
            pruned = {"non-zero": 0.0, "valid 2:4": True if sparsity == "2:4" else None} if sparse else {}
            rows.append({**row, "gap closed": value + noise[seed], "forget": left, "kept": 0.95} | examined | pruned)

    add("A", *DENSE, gaps["dense"])
    for kind in ("A", "A bare", "B", "C", "D wanda", "F"):
        for sparsity, share in shares.items():
            add(kind, "wanda", sparsity, gaps[kind.split()[0]](share))
    for kind in ("C, again", "D saliency", "D fisher", "D wanda, by gradient", "C, SGD", "D wanda, SGD"):
        add(kind, *JUDGED_AT, gaps[kind[0]](0.5))
    for sparsity in SPARSITIES:
        add("E", "none", sparsity, gaps["E"](float(sparsity)))
    for kind, value in (("target", 0.0), ("oracle", 0.9), ("oracle bare", 0.9)):
        for recipe in [*([] if "bare" in kind else [DENSE]), *(("wanda", s) for s in shares)]:
            add(kind, *recipe, value, "none")
    table = pd.DataFrame(rows)
    for column, values in more.items():
        table[column] = values(table)
    searched = table[table.loss.eq(MAIN)].assign(lr=1e-3, alpha=1.0)
    if searched_apart is not None:
        searched.loc[searched.kind.eq(searched_apart), "gap closed"] += 0.1
    return Results(searched, table, {})


FLAT = {kind: (lambda share: 0.5) for kind in "ABCDEF"}
FALLING = {kind: (lambda share: 0.5 - 0.5 * share) for kind in "ABCDEF"}


@pytest.mark.parametrize(
    ("gaps", "claim", "verdict"),
    [
        ({**FALLING, "dense": 0.5}, "sau-degrades", "supported"),
        ({**FALLING, "dense": 0.5}, "sau-cause", "supported"),
        ({**FLAT, "dense": 0.5}, "sau-degrades", "no effect"),
        ({**FALLING, "B": lambda share: 0.5 + share, "dense": 0.5}, "sau-degrades", "contradicted"),
        ({**FALLING, "E": lambda share: 0.5 - 0.1 * share, "dense": 0.5}, "sau-cause", "contradicted"),
        ({**FLAT, "dense": 0.5}, "sau-redistribution", "no effect"),
        ({**FLAT, "D": lambda share: 0.7, "dense": 0.5}, "sau-redistribution", "supported"),
        (
            {**FLAT, "D": lambda share: 0.7, "F": lambda share: 0.7, "dense": 0.5},
            "sau-redistribution",
            "no effect",
        ),
        ({**FLAT, "D": lambda share: 0.7, "dense": 0.5}, "sau-best", "supported"),
        ({**FLAT, "D": lambda share: 0.7, "A": lambda share: 0.8, "dense": 0.5}, "sau-best", "contradicted"),
        ({**FLAT, "dense": 0.8}, "sau-resurface", "supported"),
        ({**FLAT, "dense": 0.5}, "sau-resurface", "no effect"),
        ({**FLAT, "dense": 0.5}, "sau-sparsity", "supported"),
    ],
)
def test_a_rule_says_what_its_claim_needs(gaps, claim, verdict):
    judged = getattr(claims, claim.removeprefix("sau-"))(results(gaps))
    assert (judged.id, judged.verdict) == (claim, verdict)


@pytest.mark.parametrize("claim", ["best", "redistribution"])
def test_a_verdict_that_the_search_speaks_against_is_none(claim):
    """Equal arms in the replications, but for U→P, of which SAU is better on the seeds of the search."""
    flat = {**FLAT, "A": lambda share: 0.3, "dense": 0.5}
    assert getattr(claims, claim)(results(flat)).verdict == "no effect"
    judged = getattr(claims, claim)(results(flat, searched_apart="D wanda"))
    assert judged.verdict == "inconclusive"
    assert "The rule gives 'no effect'" in judged.why


def test_held_out_seeds_are_measured_at_what_the_others_choose():
    gaps = {(1e-3, 1.0): (0.9, 0.1, 0.1), (2e-3, 1.0): (0.2, 0.5, 0.6)}
    rows = [
        Arm("NPO", "A").row | {"lr": lr, "alpha": alpha, "seed": seed, "gap closed": gap}
        for (lr, alpha), each in gaps.items()
        for seed, gap in enumerate(each)
    ]
    found = search.held_out(pd.DataFrame(rows), *Arm("NPO", "A").key)
    assert found.tolist() == [0.2, 0.1, 0.1]  # the second and third seeds see what the first would have chosen


def test_one_pruned_weight_that_moved_refutes_sparsity():
    changed = results({**FLAT, "dense": 0.5}, **{"non-zero": lambda t: t["non-zero"].where(t.index != 9, 1.0)})
    assert changed.rows["non-zero"].sum() == 1
    assert claims.sparsity(changed).verdict == "contradicted"


def test_a_better_forgetter_that_loses_retention_is_not_best():
    gaps = {**FLAT, "D": lambda share: 0.7, "dense": 0.5}
    worse = results(
        gaps, kept=lambda t: t.kept - 0.05 * (t.kind == "D wanda") - 1e-3 * t.seed * (t.kind == "D wanda")
    )
    assert claims.best(worse).verdict == "contradicted"


def test_what_resurfaces_is_counted_beyond_the_oracle():
    rows = results({**FLAT, "dense": 0.8})
    assert claims.resurfaced(rows, "wanda", "0.5").tolist() == pytest.approx([100 * 0.3 / 0.8] * 3)


def test_gap_closed_is_measured_between_target_and_oracle_pruned_alike():
    def row(kind, pruner, sparsity, forget):
        rest = {"loss": "NPO", "utility": np.nan, "truth_ratio": None, "min_k": None}
        return {"kind": kind, "pruner": pruner, "sparsity": sparsity, "seed": 0, "forget": forget, **rest}

    rows = [row("target", *DENSE, 1.0), row("oracle", *DENSE, 0.2), row("target", "wanda", "0.5", 0.8)]
    rows += [row("oracle", "wanda", "0.5", 0.3), row("C", "wanda", "0.5", 0.4), row("E", "none", "0.5", 0.4)]
    found = compared(pd.DataFrame(rows)).set_index("kind")["gap closed"]
    assert found["C"] == pytest.approx(0.8)
    assert found["E"] == pytest.approx(0.75)
