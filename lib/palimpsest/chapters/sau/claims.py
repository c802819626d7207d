"""The six claims of SAU, judged: each function measures the quantities that `data/claims/sau.yaml` names."""

import numpy as np
import pandas as pd

from palimpsest.chapters.sau.arms import IMPORTANCES, kind_of
from palimpsest.chapters.sau.experiment import Results
from palimpsest.chapters.sau.measures import BAR
from palimpsest.chapters.sau.profiles import SPARSITIES, TUNED_AT, Small
from palimpsest.chapters.shared.judging import show, strongest
from palimpsest.ledger import Judgement, judge, settle
from palimpsest.metrics.statistics import counted, estimate, paired

RECIPES = [*(("wanda", s) for s in ("0.3", "0.5", "0.7", "2:4")), ("sparsegpt", "0.5")]
"""The recipes of pruning that the chapter uses."""
NAMES = {"A": "U→P", "B": "P→U, all weights", "C": "P→U, masked", "D wanda": "SAU", "F": "masked, longer steps"}
NAMES |= {"D saliency": "SAU, saliency", "D fisher": "SAU, Fisher"}
"""What the arms are called in text and figures."""


def described(setting: Small) -> str:
    """The setting that the claims are judged in, in words."""
    return (
        f"a Llama of {setting.layers} layers and width {setting.hidden} that has memorised fictitious authors; Wanda "
        f"at {', '.join(SPARSITIES)}; step sizes {', '.join(f'{lr:g}' for lr in setting.grid)} tuned for every arm "
        f"on {len(setting.tuning_seeds)} other seeds; every run is stopped at {BAR:.0%} of its start's validation "
        f"retention; {len(setting.seeds)} seeds"
    )


def gap(results: Results, kind: str, pruner: str = "wanda", sparsity: str = "0.5", loss: str = "NPO") -> pd.Series:
    """Gap closed in percent, by seed. Of arm E the sparsity is the share that may not move."""
    pruner = "none" if kind == "E" else pruner
    return 100 * results.column("gap closed", kind, pruner, sparsity, loss)


def dense(results: Results, loss: str = "NPO") -> pd.Series:
    return gap(results, "A", "none", "0", loss)


def slopes(results: Results, kind: str) -> np.ndarray:
    """Points of gap closed per 10 points of sparsity: the least-squares slope of each seed from dense to 70 %."""
    shares = [0.0, *(float(s) for s in SPARSITIES)]
    columns = [dense(results), *(gap(results, kind, sparsity=s) for s in SPARSITIES)]
    table = pd.concat(columns, axis=1).to_numpy()
    return np.array([np.polyfit(shares, row, 1)[0] / 10 for row in table])


def levels(results: Results, kind: str) -> str:
    values = [dense(results), *(gap(results, kind, sparsity=s) for s in SPARSITIES)]
    return ", ".join(f"{v.mean():.0f}" for v in values)


def degrades(results: Results) -> Judgement:
    masked, unmasked = (estimate(slopes(results, kind)) for kind in ("C", "B"))
    others = ", ".join(f"{gap(results, 'C', sparsity=s).mean():.0f} % at {s}" for s in ("0.3", "2:4"))
    why = (
        f"Gap closed in %, dense and at {', '.join(SPARSITIES)} pruned: masked {levels(results, 'C')} ({others}); "
        f"all weights, then pruned again {levels(results, 'B')}, slope {show(unmasked)}. Unlearn-Sparse reported the "
        "opposite for vision."
    )
    return judge("sau-degrades", masked, why, also={"all weights": unmasked})


def cause(results: Results) -> Judgement:
    fewer, sparse = slopes(results, "E"), slopes(results, "C")
    beyond = estimate(fewer - 0.5 * sparse)
    why = (
        f"A dense model of which a random share may not move closes {levels(results, 'E')} %; a pruned one of the "
        f"same freedom {levels(results, 'C')} %, slope {show(estimate(sparse))}. The slope of the first "
        f"minus half that of the second is {show(beyond)}."
    )
    return judge("sau-cause", estimate(fewer), why, also={"half of it": beyond})


def resurfaced(results: Results, pruner: str, sparsity: str) -> pd.Series:
    """Of what dense unlearning took from the forget probability, the share in percent that pruning gives back,
    beyond what the same pruning gives the oracle; by seed."""
    target, before = (results.column("forget", kind, "none", "0") for kind in ("target", "A"))
    back = results.column("forget", "A", pruner, sparsity) - before
    oracle = results.column("forget", "oracle", pruner, sparsity) - results.column("forget", "oracle", "none", "0")
    return 100 * (back - oracle) / (target - before)


def resurface(results: Results) -> Judgement:
    others = [recipe for recipe in RECIPES if recipe != TUNED_AT]
    rest = "; ".join(f"{p} {s} {resurfaced(results, p, s).mean():+.1f}" for p, s in others)
    rounded = 100 * (results.column("4-bit", "A", "none", "0") - results.column("forget", "A", "none", "0"))
    found = estimate(resurfaced(results, *TUNED_AT))
    why = (
        f"In %, by other recipes: {rest}. A round trip through 4-bit weights moves the forget probability of the "
        f"dense unlearned model by {rounded.mean():+.1f} points."
    )
    return judge("sau-resurface", found, why)


def best(results: Results) -> Judgement:
    ahead = {kind: paired(gap(results, "D wanda"), gap(results, kind)) for kind in ("A", "B")}
    kept = {
        kind: paired(100 * results.column("kept", "D wanda"), 100 * results.column("kept", kind))
        for kind in ("A", "B")
    }
    rival = strongest(ahead)
    utility = {kind: results.column("utility", kind).mean() for kind in ("target", "A", "B", "D wanda")}
    said = "; ".join(f"ahead of {NAMES[k]} by {show(ahead[k])} at {show(kept[k])} of test retention" for k in ahead)
    scores = ", ".join(f"{NAMES.get(k, k)} {value:.2f}" for k, value in utility.items())
    why = f"SAU is {said}. Model utility (nine scores): {scores}."
    return judge("sau-best", ahead[rival], why, family=ahead, also={"retention": kept[rival]})


def redistribution(results: Results) -> Judgement:
    def over(kind: str) -> pd.Series:
        """Mean over sparsities, by seed."""
        return pd.concat([gap(results, kind, sparsity=s) for s in SPARSITIES], axis=1).mean(axis=1)

    masked, boosted = (paired(over("D wanda"), over(kind)) for kind in ("C", "F"))

    def factor(kind: str) -> str:
        return f"{results.column('factor', kind).astype(float).mean():.1f}"

    importances = "; ".join(
        f"{importance} {show(paired(gap(results, kind_of('D', importance)), gap(results, 'C')))}"
        for importance in IMPORTANCES
    )
    other = paired(gap(results, "D wanda", loss="GradDiff"), gap(results, "C", loss="GradDiff"))
    why = (
        f"Against the control with steps of the same length (F): {show(boosted)}; mean factor on a step at 50 %, SAU "
        f"{factor('D wanda')}, F {factor('F')}. Against masked updates at 50 %, by importance: {importances}; with "
        f"GradDiff: {show(other)}."
    )
    return judge("sau-redistribution", masked, why, also={"equal steps": boosted})


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
