"""The eight claims of SAGE, judged: each function measures the quantities that `data/claims/sage.yaml` names."""

import numpy as np
import pandas as pd

from palimpsest.chapters.sage import measures
from palimpsest.chapters.sage.arms import DEPTH, NODES, PRUNING
from palimpsest.chapters.sage.profiles import Setting
from palimpsest.chapters.sage.results import Results, forwards_per_token, size, tau
from palimpsest.chapters.shared.judging import show, strongest
from palimpsest.ledger import Judgement, judge, settle
from palimpsest.metrics.statistics import Estimate, counted, estimate, paired

NAMES = {
    "chain": "chain",
    "entropy_chain": "chain that stops by entropy",
    "specvlm": "SpecVLM's 25 nodes",
    "static": "static tree",
    "eagle2": "EAGLE-2-style",
    "opt_tree": "OPT-Tree-style",
    "sage": "SAGE as stated",
    "sage, tuned": "SAGE, tuned reading",
    "static, small": "static tree of SAGE's mean size",
    "eagle2, small": "EAGLE-2-style of SAGE's mean size",
    "opt_tree, small": "OPT-Tree-style of SAGE's mean size",
    "autoregressive": "plain, this decoder",
}
"""What the arms are called in text and figures; others go by their own names."""


def described(setting: Setting) -> str:
    """The setting that the claims are judged in, in words."""
    pairs = ", ".join(f"{name}: {target} with {drafter}" for name, (target, drafter) in setting.family.pairs.items())
    return (
        f"pairs of a target and a drafter that are shipped ({pairs}); {len(setting.seeds)} seeds of "
        f"{setting.requests} pictures to describe in at most {setting.most} tokens; policies of at most {NODES} "
        f"nodes and {DEPTH} levels, tuned on {len(setting.tuning_seeds)} other seeds"
    )


def taus(results: Results, arm: str) -> pd.Series:
    """Accepted drafts per round, by seed."""
    return results.by_seed(arm, tau)


def ahead(results: Results, rival: str, arm: str = "sage") -> Estimate:
    """By how many accepted drafts per round `arm` exceeds `rival`, within seeds."""
    return paired(taus(results, arm), taus(results, rival))


def lossless(results: Results, probes: pd.DataFrame) -> Judgement:
    differing = results.decodes.assign(differs=~results.decodes.same).groupby("seed").differs.sum()
    exact, more = int(probes.same.sum()), int((probes["target forwards"] > probes["plain forwards"]).sum())
    families = ", ".join(dict.fromkeys(probes.family))
    why = (
        f"{int(results.decodes.same.sum())} of {len(results.decodes)} decodes in float32 (all arms, temperatures 0 "
        f"and 1) and {exact} of {len(probes)} in float64 ({families}; every policy, both temperatures) have plain "
        f"decoding's tokens. The target's forwards exceed plain decoding's in {more}."
    )
    also = {"float64": counted(len(probes) - exact), "forwards": counted(more)}
    return judge("sage-lossless", estimate(differing), why, also=also)


def entropy_signal(results: Results) -> Judgement:
    table = measures.rounds(results, "static")
    own, before = (estimate(measures.correlation(table, signal)) for signal in ("alpha", "before"))
    curve, rival = (estimate(measures.discrimination(results, signal)) for signal in ("alpha", "first"))
    why = (
        f"Rank correlation with the accepted length of the same round's fixed tree; with that of the next round, "
        f"which SAGE shapes by it: {show(before, '', 2)}. Area under the ROC curve for the next token: alpha "
        f"{curve.mean:.3f} [{curve.low:.3f}, {curve.high:.3f}], the likeliest "
        f"candidate's probability alone {rival.mean:.3f}."
    )
    return judge("sage-entropy-signal", own, why, also={"next token": curve})


def temporal(results: Results) -> Judgement:
    found = {}
    for unit in ("round", "token"):
        table = measures.memories(results, unit)
        nearest = table[table.lag == 1]
        found[unit] = paired(nearest.memory, nearest.shuffled), estimate(nearest.memory)
        far = table.groupby("lag").memory.mean()
        found[unit] += (", ".join(f"{far[lag]:+.2f}" for lag in far.index if lag in (2, 5, 10)),)
    (gain, _, far), (token, _, far_token) = found["round"], found["token"]
    why = (
        f"Lag 1 minus the shuffled control. At further lags of 2, 5 and 10 rounds: {far}. From token to token: "
        f"{show(token, '', 2)}, at 2, 5 and 10 tokens {far_token}."
    )
    return judge("sage-temporal", gain, why)


def longer(results: Results) -> Judgement:
    cap, small, paper = (ahead(results, rival) for rival in ("static", "static, small", "specvlm"))
    levels = "; ".join(
        f"{NAMES[arm]} {taus(results, arm).mean():.2f} ({results.by_seed(arm, size).mean():.0f} nodes)"
        for arm in ("sage", "sage, tuned", "static", "static, small", "eagle2", "opt_tree", "chain", "specvlm")
    )
    why = (
        f"Against a static tree of SAGE's mean size: {show(small, 'tokens', 2)}; against SpecVLM's tree, the paper's "
        f"comparison: {show(paper, 'tokens', 2)}. Accepted drafts per round: {levels}."
    )
    return judge("sage-longer", cap, why, also={"small": small})


def speed(bench: pd.DataFrame, arm: str) -> pd.Series:
    """Tokens per second without the prefills, by seed, as recorded."""
    rows = bench[bench.arm == arm].set_index("seed")
    return (rows.tokens - rows.requests) / rows.decode  # the first token of each comes from its prefill


def faster(results: Results, bench: pd.DataFrame) -> Judgement:
    rivals = ("chain, cheapest", "specvlm", "static, cheapest")
    gains = {
        rival: estimate(100 * (speed(bench, "sage") / speed(bench, rival) - 1))
        for rival in (*rivals, "eagle2, cheapest", "opt_tree, cheapest", "transformers")
    }
    family = {rival: gains[rival] for rival in rivals}
    said = "; ".join(f"over {NAMES.get(r, r)} {show(e, '%', 0)}" for r, e in gains.items())
    price = results.prices["vision"]
    counted = ", ".join(
        f"{NAMES.get(arm, arm)} {results.by_seed(arm, lambda rows: forwards_per_token(rows, price)).mean():.3f}"
        for arm in ("sage", "sage, cheapest", *rivals)
    )
    why = (
        f"Recorded on one machine, one thread, decode time without prefills: {said}. Counted, target forwards per "
        f"token with a draft forward at {price:.3f}: {counted}."
    )
    return judge("sage-faster", family[strongest(family)], why, family=family)


def length_gap(results: Results) -> Judgement:
    slopes, gains = {}, {}
    for rival in ("specvlm", "static"):
        gains[rival] = measures.length_gain(results, "sage", rival).dropna()
        doublings = np.log2(np.array(measures.LENGTHS))
        slopes[rival] = estimate([np.polyfit(doublings, row, 1)[0] for row in gains[rival].to_numpy()])
    said = "; ".join(
        f"over {NAMES[rival]} " + ", ".join(f"{gain:+.0f} %" for gain in gains[rival].mean()) for rival in gains
    )
    why = (
        f"Gain at {', '.join(map(str, measures.LENGTHS))} tokens, of the same texts: {said}. Slope per doubling "
        f"against the static tree: {show(slopes['static'])}. The paper's lengths are 512 to 2048."
    )
    return judge("sage-length-gap", slopes["specvlm"], why, also={"static": slopes["static"]})


def left_by(results: Results, arm: str) -> Estimate:
    """Percent of the accepted length that is left when the drafter's picture is pruned."""
    return estimate(100 * taus(results, arm) / taus(results, "sage"))


def pruning(results: Results) -> Judgement:
    ratios = {name: left_by(results, name) for name, arm in results.arms.items() if arm.drafter in PRUNING}
    said = "; ".join(f"{arm} {e.mean:.1f} %" for arm, e in ratios.items())
    pruned = results.decodes[results.decodes.arm.isin(ratios)]
    why = (
        f"Accepted length left, by rule and share of the picture's tokens dropped: {said}. The target's text was "
        f"unchanged in {int(pruned.same.sum())} of {len(pruned)} decodes."
    )
    also = {"at 90 %": ratios["attention 0.9"], "text": counted(int((~pruned.same).sum()))}
    return judge("sage-pruning", ratios["attention 0.8"], why, also=also)


def overhead(bench: pd.DataFrame) -> Judgement:
    rows = bench[bench.arm == "sage"].set_index("seed")
    share = estimate(100 * rows.tree / rows.decode)
    rest = ", ".join(f"{s} {100 * (rows[s] / rows.decode).mean():.1f} %" for s in ("verify", "draft", "rest"))
    each = 1e6 * (rows.tree / (rows["target forwards"] - rows.requests)).mean()
    why = (
        f"The rest of the decode time: {rest}. Building and masking the tree takes {each:.0f} microseconds per round."
    )
    return judge("sage-overhead", share, why)


def judgements(results: Results, probes: pd.DataFrame, bench: pd.DataFrame) -> dict[str, Judgement]:
    """All eight, by identifier. probes: rows of `probes.exactness`; bench: `data/bench/decoding.cpu.csv`."""
    first = [lossless(results, probes), entropy_signal(results), temporal(results), longer(results)]
    return settle([*first, faster(results, bench), length_gap(results), pruning(results), overhead(bench)])
