"""The eight claims of SAGE, judged: each function measures the quantities that `data/claims/sage.yaml` names.

A claim that the paper states of every drafter is judged with drafters of every strength here.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from palimpsest.chapters.sage import measures
from palimpsest.chapters.sage.arms import DEPTH, NODES, PRUNING
from palimpsest.chapters.sage.measures import named
from palimpsest.chapters.sage.profiles import Setting
from palimpsest.chapters.sage.results import Costs, Results, seconds_per_token, size, tau
from palimpsest.chapters.shared.judging import show, strongest
from palimpsest.ledger import Judgement, judge, settle
from palimpsest.metrics.statistics import Estimate, counted, estimate, paired

NAMES = {
    "chain": "chain",
    "chain, cheapest": "cheapest chain",
    "specvlm": "SpecVLM's 25 nodes",
    "static": "static tree",
    "static, cheapest": "cheapest static tree",
    "eagle2": "EAGLE-2-style",
    "opt_tree": "OPT-Tree-style",
    "sage": "SAGE as stated",
    "sage, tuned": "SAGE, tuned",
    "sage, cheapest": "SAGE, cheapest",
    "static, small": "static tree of SAGE's mean size",
    "static, tuned size": "static tree of tuned SAGE's mean size",
    "static, 25 nodes": "static tree, 25 nodes, 8 levels",
    "static, 25 nodes, 5 levels": "static tree, 25 nodes, 5 levels",
    "sage, 5 levels": "SAGE, 5 levels at most",
    "eagle2, small": "EAGLE-2-style of SAGE's mean size",
    "opt_tree, small": "OPT-Tree-style of SAGE's mean size",
    "autoregressive": "plain, this decoder",
}
"""What the arms are called in text and figures; others go by their own names."""


def described(setting: Setting) -> str:
    """The setting that the claims are judged in, in words."""
    pairs = ", ".join(f"{name}: {target} with {drafter}" for name, (target, drafter) in setting.family.pairs.items())
    return (
        f"pairs of a target and a drafter ({pairs}); {len(setting.seeds)} seeds of {setting.requests} pictures to "
        f"describe in at most {setting.most} tokens, of which {setting.decoded} are decoded where a replay is not "
        f"exact; policies of at most {NODES} nodes and {DEPTH} levels, tuned on {len(setting.tuning_seeds)} other "
        f"seeds of {setting.tuned} pictures"
    )


def taus(results: Results, arm: str, beside: str | None = None) -> pd.Series:
    """Accepted drafts per round, by seed; `beside`: on the requests of that arm alone."""
    return results.by_seed(arm, tau, beside)


def ahead(results: Results, rival: str, arm: str = "sage") -> Estimate:
    """By how many accepted drafts per round `arm` exceeds `rival`, within seeds, on the requests of both."""
    return paired(taus(results, arm, rival), taus(results, rival, arm))


def per_pair(results: Results, measure: Callable[[str], Estimate]) -> dict[str, Estimate]:
    """`measure` of each pair, the chapter's first."""
    return {pair: measure(pair) for pair in results.agreement}


def said(results: Results, found: dict[str, Estimate], unit: str = "", digits: int = 2) -> str:
    """Estimates by pair in words, a drafter named by the share of tokens that it guesses."""
    return "; ".join(f"{results.agreement[pair]:.0%} {show(e, unit, digits)}" for pair, e in found.items())


def least(found: dict[str, Estimate]) -> Estimate:
    """The estimate that is least."""
    return found[strongest(found)]


def lossless(results: Results, probes: pd.DataFrame) -> Judgement:
    columns = ["seed", "same"]
    decodes = pd.concat([results.decodes.dropna(subset="same")[columns], results.checked[columns]])
    differing = (~decodes.same.astype(bool)).groupby(decodes.seed).sum()
    exact, more = int(probes.same.sum()), int((probes["target forwards"] > probes["plain forwards"]).sum())
    families = ", ".join(dict.fromkeys(probes.family))
    why = (
        f"{int(decodes.same.sum())} of {len(decodes)} decodes in float32 (temperatures 0 and 1) and {exact} of "
        f"{len(probes)} in float64 ({families}; every policy, both temperatures) have plain decoding's tokens. The "
        f"target's forwards exceed plain decoding's in {more}. Of {len(results.checked)} decodes "
        f"{int(results.checked.equal.sum())} are their replay round for round."
    )
    also = {"float64": counted(len(probes) - exact), "forwards": counted(more)}
    return judge("sage-lossless", estimate(differing), why, also=also)


def entropy_signal(results: Results) -> Judgement:
    tables = {pair: measures.rounds(results, named("static", pair)) for pair in results.agreement}
    own = per_pair(results, lambda pair: estimate(measures.correlation(tables[pair], "alpha")))
    before = per_pair(results, lambda pair: estimate(measures.correlation(tables[pair], "before")))
    curve = per_pair(results, lambda pair: estimate(measures.discrimination(results, "alpha", pair)))
    first = per_pair(results, lambda pair: estimate(measures.discrimination(results, "first", pair)))
    why = (
        f"By the share of tokens that the drafter guesses, rank correlation with the accepted length of the same "
        f"round's fixed tree: {said(results, own)}. With that of the next round, which SAGE shapes by it: "
        f"{said(results, before)}. Area under the ROC curve for the next token, alpha and the likeliest candidate's "
        f"probability alone: "
        + "; ".join(f"{results.agreement[p]:.0%} {curve[p].mean:.3f}, {first[p].mean:.3f}" for p in curve)
        + "."
    )
    return judge("sage-entropy-signal", own["vision"], why, family=own, also={"next token": least(curve)})


def temporal(results: Results) -> Judgement:
    found, told = {}, []
    for unit in ("round", "token"):
        tables = {pair: measures.memories(results, unit, pair) for pair in results.agreement}
        nearest = {pair: table[table.lag == 1] for pair, table in tables.items()}
        found[unit] = {pair: paired(part.memory, part.null) for pair, part in nearest.items()}
        vision = tables["vision"].groupby("lag").memory.mean() - nearest["vision"].null.mean()
        far = ", ".join(f"{vision[lag]:+.2f}" for lag in (2, 5, 10) if lag in vision.index)
        told.append(
            f"By {unit}s, {int(nearest['vision'].pairs.sum()):,} pairs: {said(results, found[unit])}; largest "
            f"permutation p {max(measures.permutation_p(table) for table in tables.values()):.2g}; the chapter's "
            f"drafter 2, 5 and 10 {unit}s on {far}."
        )
    why = "Lag 1 minus the mean over random orders, by the share of tokens that the drafter guesses. " + " ".join(
        told
    )
    return judge(
        "sage-temporal", found["round"]["vision"], why, family=found["round"], also={"token": least(found["token"])}
    )


def longer(results: Results) -> Judgement:
    cap, small, stated, paper = (
        per_pair(results, lambda pair, arm=arm, rival=rival: ahead(results, named(rival, pair), named(arm, pair)))
        for arm, rival in (
            ("sage, tuned", "static"),
            ("sage, tuned", "static, tuned size"),
            ("sage", "static, small"),
            ("sage", "specvlm"),
        )
    )
    levels = "; ".join(
        f"{NAMES[arm]} {taus(results, arm).mean():.2f} ({results.by_seed(arm, size).mean():.0f} nodes)"
        for arm in ("sage", "sage, tuned", "static", "static, tuned size", "static, small", "chain", "specvlm")
    )
    why = (
        f"By the share of tokens that the drafter guesses, tuned SAGE against a static tree of 64 nodes: "
        f"{said(results, cap)}; of tuned SAGE's mean size: {said(results, small)}. SAGE as stated against a static "
        f"tree of its mean size: {said(results, stated)}; against SpecVLM's tree, the paper's comparison: "
        f"{said(results, paper)}. The chapter's drafter, accepted drafts per round: {levels}."
    )
    return judge("sage-longer", small["vision"], why, family=small, also={"largest": least(cap)})


def gained(results: Results, arm: str, rival: str) -> Estimate:
    """By how many percent `arm` makes more tokens per second than `rival`, by the measured costs of forwards."""
    own, other = (
        results.by_seed(name, lambda rows: seconds_per_token(rows, results.costs), beside)
        for name, beside in ((arm, rival), (rival, arm))
    )
    return estimate(100 * (other / own - 1))


def speed(bench: pd.DataFrame, arm: str) -> pd.Series:
    """Tokens per second without the prefills, by seed, as recorded."""
    rows = bench[bench.arm == arm].set_index("seed")
    return (rows.tokens - rows.requests) / rows.decode  # the first token of each comes from its prefill


RIVALS = ("chain, cheapest", "specvlm", "static, cheapest")
"""Of `sage-faster`."""


def faster(results: Results, bench: pd.DataFrame) -> Judgement:
    gains = {
        (rival, pair): gained(results, named("sage, cheapest", pair), named(rival, pair))
        for rival in RIVALS
        for pair in results.agreement
    }
    own = {rival: gains[rival, "vision"] for rival in RIVALS}
    told = ". ".join(
        f"Over {NAMES[rival]}: {said(results, {p: gains[rival, p] for p in results.agreement}, '%', 0)}"
        for rival in RIVALS
    )
    clock = "; ".join(
        f"{NAMES.get(rival, rival)} {show(estimate(100 * (speed(bench, 'sage') / speed(bench, rival) - 1)), '%', 0)}"
        for rival in (*RIVALS, "transformers")
    )
    why = (
        f"Forwards of both models at their measured cost, SAGE tuned for it as its rivals are, by the share of "
        f"tokens that the drafter guesses. {told}. Wall clock of SAGE as stated, recorded on one machine: {clock}."
    )
    family = {f"{rival}, {pair}": gain for (rival, pair), gain in gains.items()}
    return judge("sage-faster", least(own), why, family=family)


def length_gap(results: Results) -> Judgement:
    slopes, gains = {}, {}
    for rival in ("specvlm", "static"):
        gains[rival] = measures.length_gain(results, "sage", rival).dropna()
        doublings = np.log2(np.array(measures.LENGTHS))
        slopes[rival] = estimate([np.polyfit(doublings, row, 1)[0] for row in gains[rival].to_numpy()])
    told = "; ".join(
        f"over {NAMES[rival]} " + ", ".join(f"{gain:+.0f} %" for gain in gains[rival].mean()) for rival in gains
    )
    why = (
        f"Gain at {', '.join(map(str, measures.LENGTHS))} tokens, of the same texts: {told}. Slope per doubling "
        f"against the static tree: {show(slopes['static'])}. The paper's lengths are 512 to 2048."
    )
    return judge("sage-length-gap", slopes["specvlm"], why, also={"static": slopes["static"]})


def left_by(results: Results, arm: str) -> Estimate:
    """Percent of the accepted length that is left when the drafter's picture is pruned."""
    return estimate(100 * taus(results, arm) / taus(results, "sage", arm))


def pruning(results: Results) -> Judgement:
    ratios = {name: left_by(results, name) for name, arm in results.arms.items() if arm.drafter in PRUNING}
    told = "; ".join(f"{arm} {e.mean:.1f} % [{e.low:.1f}, {e.high:.1f}]" for arm, e in ratios.items())
    pruned = results.checked[results.checked.arm.isin(ratios)]
    why = (
        f"Accepted length left, by rule and share of the picture's tokens dropped: {told}; "
        f"{len(results.of(next(iter(ratios))))} pictures. The target's text was unchanged in "
        f"{int(pruned.same.sum())} of {len(pruned)} decodes."
    )
    also = {
        "at 90 %": ratios["target's attention 0.9"],
        "text": counted(int((~pruned.same.astype(bool)).sum())),
    }
    return judge("sage-pruning", ratios["target's attention 0.8"], why, also=also)


def overhead(results: Results, bench: pd.DataFrame, real: Costs) -> Judgement:
    rows = bench[bench.arm == "sage"].set_index("seed")
    each = rows.tree / (rows["target forwards"] - rows.requests)
    nodes = results.by_seed("sage", size).mean()
    forward = float(real.seconds(REAL_MODEL, 1 + nodes))
    toy = 100 * (rows.tree / rows.decode).mean()
    why = (
        f"Building and masking the tree takes {1e6 * each.mean():.0f} microseconds per round; one forward of a model "
        f"of {REAL_MODEL}'s shape over {1 + nodes:.0f} rows behind 512 tokens takes {1e3 * forward:.0f} milliseconds "
        f"on the same kind of core. Of the toy pair's decode time it is {toy:.1f} %."
    )
    return judge("sage-overhead", estimate(100 * each / forward), why)


REAL_MODEL = "SmolLM2-135M"


def judgements(results: Results, probes: pd.DataFrame, bench: pd.DataFrame, real: Costs) -> dict[str, Judgement]:
    """All eight, by identifier. probes: rows of `probes.exactness`; bench: `data/bench/decoding.cpu.csv`; real: the
    costs of `real_forwards.cpu.csv` there."""
    first = [lossless(results, probes), entropy_signal(results), temporal(results), longer(results)]
    last = [length_gap(results), pruning(results), overhead(results, bench, real)]
    return settle([*first, faster(results, bench), *last])
