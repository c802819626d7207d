"""The six claims of SAU, judged: each function measures the quantities that `data/claims/sau.yaml` names."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from palimpsest.chapters.sau.arms import DENSE, IMPORTANCES, kind_of
from palimpsest.chapters.sau.experiment import Results
from palimpsest.chapters.sau.measures import BAR
from palimpsest.chapters.sau.profiles import JUDGED_AT, MAIN, SPARSITIES, Small
from palimpsest.chapters.sau.search import at_best, held_out
from palimpsest.chapters.shared.judging import level, show, strongest
from palimpsest.ledger import Judgement, judge, settle
from palimpsest.metrics.statistics import Estimate, counted, estimate, paired

NAMES = {"A": "U→P", "B": "P→U, all weights", "C": "P→U, masked", "D wanda": "SAU", "F": "masked, longer steps"}
NAMES |= {"D saliency": "SAU, saliency", "D fisher": "SAU, Fisher", "D wanda, by gradient": "SAU, λ by gradient"}
NAMES |= {"C, SGD": "masked, SGD", "D wanda, SGD": "SAU, SGD", "C, again": "masked, second name"}
NAMES |= {"A, frozen": "embeddings frozen", "C, frozen": "masked, embeddings frozen"}
"""What the arms are called in text and figures."""


def described(setting: Small) -> str:
    """The setting that the claims are judged in, in words."""
    return (
        f"a Llama of {setting.layers} layers and width {setting.hidden} that has memorised fictitious authors; Wanda "
        f"at {', '.join(SPARSITIES)}, recovered; step size and weight of the retain loss searched for every arm in "
        f"steps of √2 on {len(setting.tuning_seeds)} other seeds; every run is taken where it has forgotten most at "
        f"{BAR:.0%} of its start's validation retention; {len(setting.seeds)} seeds"
    )


def allowed(judged: Judgement, found: Estimate, what: str) -> Judgement:
    """The judgement, and "inconclusive" where `found` speaks against it: its first quantity on the seeds of the
    search, each measured at the values that the others choose. The replications all take one choice of values, so
    that their intervals do not hold the noise of choosing; this one does. It speaks against a judgement where the two
    intervals lie on two sides of 0, and against "no effect" where it alone leaves 0 out."""
    measured = judged.measured
    opposed = found.high < 0 < measured.low or measured.high < 0 < found.low
    alone = measured.low <= 0 <= measured.high and not found.low <= 0 <= found.high
    why = f"{judged.why} On the seeds of the search, each at the values that the others choose, {what} {show(found)}."
    if judged.verdict != "inconclusive" and (opposed or (alone and judged.verdict == "no effect")):
        why = f"The rule gives '{judged.verdict}', which the seeds of the search speak against. {why}"
        return replace(judged, verdict="inconclusive", why=why)
    return replace(judged, why=why)


def gap(
    results: Results, kind: str, pruner: str = JUDGED_AT[0], sparsity: str = JUDGED_AT[1], loss: str = MAIN
) -> pd.Series:
    """Gap closed in percent, by seed. Of arm E the sparsity is the share that may not move."""
    pruner = "none" if kind == "E" else pruner
    return 100 * results.column("gap closed", kind, pruner, sparsity, loss)


def held(
    results: Results, kind: str, pruner: str = JUDGED_AT[0], sparsity: str = JUDGED_AT[1], loss: str = MAIN
) -> pd.Series:
    """As `gap`, on the seeds of the search, each at the values that its other seeds choose."""
    return 100 * held_out(results.search, loss, kind, "none" if kind == "E" else pruner, sparsity)


def dense(results: Results, of: Callable[..., pd.Series] = gap) -> pd.Series:
    return of(results, "A", *DENSE)


def slopes(results: Results, kind: str, of: Callable[..., pd.Series] = gap) -> np.ndarray:
    """Points of gap closed per 10 points of sparsity: the least-squares slope of each seed from dense to 70 %."""
    shares = [0.0, *(float(s) for s in SPARSITIES)]
    columns = [dense(results, of), *(of(results, kind, sparsity=s) for s in SPARSITIES)]
    table = pd.concat(columns, axis=1).to_numpy()
    return np.array([np.polyfit(shares, row, 1)[0] / 10 for row in table])


def levels(results: Results, kind: str) -> str:
    values = [dense(results), *(gap(results, kind, sparsity=s) for s in SPARSITIES)]
    return ", ".join(f"{v.mean():.1f}" for v in values)


def leading(results: Results, kind: str) -> str:
    """The loss that did best for a kind of arm while values were searched for; of arm A before it is pruned."""
    recipe = DENSE if kind == "A" else JUDGED_AT
    levels = {key[0]: gaps.mean() for key, gaps in at_best(results.search).items() if key[1:] == (kind, *recipe)}
    return max(levels, key=levels.get)


def degrades(results: Results) -> Judgement:
    masked, unmasked = estimate(slopes(results, "C")), paired(gap(results, "B"), dense(results))
    floor = paired(gap(results, "C, again"), gap(results, "C"))
    why = (
        f"Gap closed in %, dense and at {', '.join(SPARSITIES)} pruned: masked {levels(results, 'C')}; SAU "
        f"{levels(results, 'D wanda')}, slope {show(estimate(slopes(results, 'D wanda')))}. All weights, then pruned "
        f"again: {show(unmasked)} against dense. The masked arm under a second name differs by {show(floor)}. "
        "Unlearn-Sparse reported the opposite for vision."
    )
    judged = judge("sau-degrades", masked, why, also={"all weights": unmasked})
    return allowed(judged, estimate(slopes(results, "C", held)), "the slope is")


def cause(results: Results) -> Judgement:
    fewer, sparse = slopes(results, "E"), slopes(results, "C")
    beyond = estimate(fewer - 0.5 * sparse)
    why = (
        f"A dense model of which a random share may not move closes {levels(results, 'E')} %; a pruned one of the "
        f"same freedom {levels(results, 'C')} %, slope {show(estimate(sparse))}. The slope of the first "
        f"minus half that of the second is {show(beyond)}."
    )
    judged = judge("sau-cause", estimate(fewer), why, also={"half of it": beyond})
    return allowed(judged, estimate(slopes(results, "E", held)), "the slope of the first is")


def resurfaced(results: Results, pruner: str, sparsity: str, kind: str = "A bare") -> pd.Series:
    """Of what dense unlearning took from the forget probability, the share in percent that pruning gives back,
    beyond what the same pruning gives the oracle; by seed. Kind "A": pruning and recovery, of both."""
    target, before = (results.column("forget", whose, *DENSE) for whose in ("target", "A"))
    after, oracle = (
        results.column("forget", whose, pruner, sparsity) for whose in (kind, kind.replace("A", "oracle"))
    )
    back = (after - before) - (oracle - results.column("forget", "oracle", *DENSE))
    return (100 * back / (target - before)).dropna()


def resurface(results: Results) -> Judgement:
    rest = "; ".join(
        f"{p} {s} {show(estimate(resurfaced(results, p, s)), '%')}" for p, s in results.pruned if (p, s) != JUDGED_AT
    )
    mended = estimate(resurfaced(results, *JUDGED_AT, "A"))
    rounded = (100 * (results.column("4-bit", "A", *DENSE) - results.column("forget", "A", *DENSE))).dropna()
    left = level(estimate(100 * results.column("forget", "A", *DENSE)))
    why = (
        f"The dense model has forgotten before it is pruned: its forget probability is {left}. By other recipes: "
        f"{rest}. Recovered on what it may know: {show(mended, '%')}. A round trip through 4-bit weights moves the "
        f"forget probability of the dense unlearned model by {rounded.mean():+.1f} points."
    )
    return judge("sau-resurface", estimate(resurfaced(results, *JUDGED_AT)), why)


def best(results: Results) -> Judgement:
    losses = {kind: leading(results, kind) for kind in ("A", "B", "D wanda")}
    closed = {kind: gap(results, kind, loss=loss) for kind, loss in losses.items()}
    kept = {kind: 100 * results.column("kept", kind, loss=loss) for kind, loss in losses.items()}
    ahead = {kind: paired(closed["D wanda"], closed[kind]) for kind in ("A", "B")}
    keeps = {kind: paired(kept["D wanda"], kept[kind]) for kind in ("A", "B")}
    rival = strongest(ahead)
    said = "; ".join(f"ahead of {NAMES[k]} by {show(ahead[k])} at {show(keeps[k])} of test retention" for k in ahead)
    chosen = ", ".join(f"{NAMES[kind]} {loss} ({level(estimate(closed[kind]))})" for kind, loss in losses.items())
    alike = "; ".join(
        f"of {NAMES[k]} by {show(paired(gap(results, 'D wanda'), gap(results, k)))}" for k in ("A", "B", "C")
    )
    found = paired(*(held(results, kind, loss=losses[kind]) for kind in ("D wanda", "B")))
    why = f"Each with the loss that its search preferred: {chosen}. SAU is {said}. With {MAIN} it is ahead {alike}."
    judged = judge("sau-best", ahead[rival], why, family=ahead, also={"retention": keeps[rival]})
    if rival != "B":  # the search saw arm A before it is pruned
        return judged
    return allowed(judged, found, f"it is ahead of {NAMES['B']} by")


def redistribution(results: Results) -> Judgement:
    def over(kind: str, of: Callable[..., pd.Series] = gap) -> pd.Series:
        """Mean over sparsities, by seed."""
        return pd.concat([of(results, kind, sparsity=s) for s in SPARSITIES], axis=1).mean(axis=1)

    masked, boosted = paired(over("D wanda"), over("C")), paired(gap(results, "D wanda"), gap(results, "F"))

    def factor(kind: str) -> str:
        return f"{results.column('factor', kind).astype(float).mean():.1f}"

    def beside(kind: str, other: str) -> str:
        """The first minus the second at the recipe that is judged, over the seeds of both."""
        both = pd.concat([gap(results, kind), gap(results, other)], axis=1).dropna()
        return show(paired(both.iloc[:, 0], both.iloc[:, 1]))

    others = "; ".join(f"{name} {beside(kind_of('D', name), 'C')}" for name in IMPORTANCES if name != "wanda")
    why = (
        f"Against the control with steps of the same length (F), at {JUDGED_AT[1]}: {show(boosted)}; mean factor on "
        f"a step, SAU {factor('D wanda')}, F {factor('F')}. Against masked updates there, on fewer seeds: {others}; "
        f"λ from the gradient in place of the direction {beside('D wanda, by gradient', 'C')}; by SGD, whose step is "
        f"the gradient, {beside('D wanda, SGD', 'C, SGD')}."
    )
    judged = judge("sau-redistribution", masked, why, also={"equal steps": boosted})
    return allowed(judged, paired(over("D wanda", held), over("C", held)), "the mean over sparsities is")


def sparsity(results: Results) -> Judgement:
    rows = results.rows[results.rows["non-zero"].notna()]
    changed = rows.groupby("seed")["non-zero"].sum()
    patterned = rows[rows.sparsity == "2:4"]["valid 2:4"]
    exact = int((rows["non-zero"] == 0).sum())
    why = (
        f"In {exact} of {len(rows)} unlearned sparse models every pruned weight is zero, bit by bit; the 2:4 pattern "
        f"holds in {int(patterned.sum())} of {len(patterned)}. Masked updates keep it by construction, unmasked ones "
        "by pruning again."
    )
    return judge("sau-sparsity", estimate(changed), why, also={"2:4": counted((~patterned.astype(bool)).sum())})


def judgements(results: Results) -> dict[str, Judgement]:
    """All six, by identifier."""
    return settle([f(results) for f in (degrades, cause, resurface, best, redistribution, sparsity)])
