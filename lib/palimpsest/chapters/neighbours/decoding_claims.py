"""The claims in decoding, judged: other drafters under SAGE's budget, and decoding that is not lossless."""

from collections.abc import Iterable

from palimpsest.chapters.neighbours.decoding import Results
from palimpsest.chapters.neighbours.decoding_tables import difference
from palimpsest.chapters.shared.judging import level, show
from palimpsest.ledger import Judgement, judge
from palimpsest.metrics.statistics import Estimate, estimate

PAIR = "chapter 5's pair, 16 and 2 layers"
SIZES = {
    "neighbours-trigrams": PAIR,
    "neighbours-tree": PAIR,
    "neighbours-superposed": PAIR,
    "neighbours-skipping": f"{PAIR}, nothing trained",
    "neighbours-turns": PAIR,
}


def trigrams(results: Results) -> Judgement:
    arms = ("trigrams, ADED's tree", "recycling, ADED's tree")
    why = f"Accepted per round: {_levels(results, 'tau', *arms)}."
    return judge("neighbours-trigrams", difference(results, *arms, "tau"), why)


def tree(results: Results) -> Judgement:
    arms = ("recycling, ADED's tree", "recycling, SAGE")
    why = (
        f"Accepted per round: {_levels(results, 'tau', *arms)}; nodes per tree: {_levels(results, 'nodes', *arms)}; "
        f"cost per token: {_levels(results, 'cost', *arms)}."
    )
    return judge("neighbours-tree", difference(results, *arms, "tau"), why)


def superposed(results: Results) -> Judgement:
    arms = ("superposed, SAGE", "SAGE")
    accepted = show(difference(results, *arms, "tau"), "", 2)
    why = f"Cost per token: {_levels(results, 'cost', *arms)}; accepted per round, difference: {accepted}."
    return judge("neighbours-superposed", difference(results, *arms, "cost"), why)


def skipping(results: Results) -> Judgement:
    arm = "skipping 2×, SAGE"
    why = f"Accepted per round: {_levels(results, 'tau', arm, 'SAGE')}; plain decoding costs 1 per token."
    return judge("neighbours-skipping", _of(results, "cost", arm), why)


def turns(results: Results) -> Judgement:
    table = results.lossy
    true, of_target = (table.groupby("seed")[name].mean() for name in ("true", "true of target"))
    cost, large = (estimate(table.groupby("seed")[name].mean()) for name in ("cost", "large"))
    why = (
        f"{int(table.same.sum())} of {len(table)} texts are the target's; {100 * large.mean:.0f} % of the tokens are "
        f"by the large model; cost per token {_span(cost)}, SAGE's {_span(_of(results, 'cost', 'SAGE'))}."
    )
    return judge("neighbours-turns", estimate(100 * (true - of_target).dropna()), why)


def _of(results: Results, measure: str, arm: str) -> Estimate:
    return estimate(results.by_seed(arm, measure))


def _levels(results: Results, measure: str, *arms: str) -> str:
    say = _span if measure == "cost" else lambda e: level(e, "").replace("  ", " ")
    return "; ".join(f"{arm} {say(_of(results, measure, arm))}" for arm in arms)


def _span(e: Estimate) -> str:
    return f"{e.mean:.3f} [{e.low:.3f}, {e.high:.3f}]"


def judgements(results: Results) -> Iterable[Judgement]:
    """All five."""
    return [rule(results) for rule in (trigrams, tree, superposed, skipping, turns)]
