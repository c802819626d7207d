"""The claims in language, judged: what stress tests find that the gap closed hides, and how rivals do beside NPO."""

from collections.abc import Iterable

from palimpsest.chapters.neighbours.language_reading import left, remaining, values
from palimpsest.chapters.neighbours.language_results import RETRAIN, Results
from palimpsest.chapters.neighbours.profiles import SHARP
from palimpsest.chapters.sau.arms import DENSE
from palimpsest.chapters.sau.profiles import JUDGED_AT, MAIN
from palimpsest.chapters.shared.judging import level, listed, show, strongest
from palimpsest.ledger import Judgement, judge
from palimpsest.metrics.statistics import Estimate, estimate, paired

UNLEARNED = {MAIN: DENSE, f"{MAIN} SAU": JUDGED_AT}
"""The arms that descend a loss, with their recipes: chapter 1's dense arm and SAU."""
DENSELY, BOTH = "0.14 million weights", "0.14 million weights, dense and half of them pruned"
SIZES = {
    "neighbours-choice": BOTH,
    "neighbours-form": BOTH,
    "neighbours-trace": BOTH,
    "neighbours-reversed": DENSELY,
    "neighbours-overshoot": DENSELY,
    "neighbours-prompts": DENSELY,
    "neighbours-redirect": DENSELY,
    "neighbours-skills": DENSELY,
    "neighbours-sharp": DENSELY,
    "neighbours-context": DENSELY,
}


def choice(results: Results) -> Judgement:
    found, rows = {}, []
    for arm, recipe in UNLEARNED.items():
        picked = remaining(results, "question", arm, recipe)
        probable = 100 - 100 * results.column("gap closed", arm, recipe)
        found[arm] = paired(picked, probable)
        rows.append(
            f"{arm}: {level(estimate(picked))} of the lead by choosing, {level(estimate(probable))} by probability"
        )
    return judge("neighbours-choice", found[strongest(found)], "; ".join(rows) + ".", family=found)


def form(results: Results) -> Judgement:
    found = {
        arm: paired(*(remaining(results, test, arm, recipe) for test in ("reworded", "question")))
        for arm, recipe in UNLEARNED.items()
    }
    why = f"In new words minus as unlearned: {listed(found)}. Each question is asked with the same wrong answers."
    return judge("neighbours-form", found[strongest(found)], why, family=found)


def trace(results: Results) -> Judgement:
    found = {arm: left(results, "written", arm, recipe) for arm, recipe in UNLEARNED.items()}
    drawn = results.ablated[results.ablated.which.eq("drawn")].set_index("seed").fact
    traced = results.ablated[results.ablated.which.eq("traced")].set_index("seed").fact
    rows = "; ".join(f"{arm} {level(e)}" for arm, e in found.items())
    why = (
        f"Of the original's lead its value vectors keep: {rows}. The probability of the facts without those traced "
        f"minus without as many drawn: {show(paired(100 * traced, 100 * drawn))}."
    )
    return judge("neighbours-trace", found[strongest(found)], why, family=found)


def reversed_goals(results: Results) -> Judgement:
    return judge("neighbours-reversed", _ahead(results, "ULD"), _compared(results, "ULD"))


def overshoot(results: Results) -> Judgement:
    found = left(results, "question", "ULD", DENSE)
    why = (
        f"Below 0 the right answers are chosen more seldom than by a model that never met the facts. Gap closed: "
        f"{_closed(results, 'ULD')}."
    )
    return judge("neighbours-overshoot", found, why)


def prompts(results: Results) -> Judgement:
    return judge("neighbours-prompts", _ahead(results, "ECO"), _compared(results, "ECO"))


def redirect(results: Results) -> Judgement:
    return judge("neighbours-redirect", _ahead(results, "ROCR"), _compared(results, "ROCR"))


def skills(results: Results) -> Judgement:
    found = {rival: _ahead(results, rival) for rival in ("Neuron Adjust", "Key Space Detection")}
    best = max(found, key=lambda rival: found[rival].mean)
    return judge("neighbours-skills", found[best], f"{_compared(results, *found)} Shown is {best}.")


def sharp(results: Results) -> Judgement:
    relearnt = {arm: remaining(results, "relearnt", arm, DENSE) for arm in (SHARP, MAIN)}
    rows = "; ".join(f"{arm} {level(estimate(share))}" for arm, share in relearnt.items())
    why = f"Left of the original's lead after relearning a tenth: {rows}. {_compared(results, SHARP)}"
    return judge("neighbours-sharp", paired(*relearnt.values()), why)


def context(results: Results) -> Judgement:
    told, other = (values(results, test, RETRAIN, DENSE) for test in ("told", "other"))
    why = (
        f"Retrain's probability of the answer is {level(estimate(told))} where the prompt shows it, and "
        f"{level(estimate(other))} where it shows another author's. Models of this size do not learn from a prompt."
    )
    return judge("neighbours-context", paired(told, other), why)


def _ahead(results: Results, arm: str) -> Estimate:
    return paired(*(100 * results.column("gap closed", name, DENSE) for name in (arm, MAIN)))


def _closed(results: Results, arm: str) -> str:
    return level(estimate(100 * results.column("gap closed", arm, DENSE)))


def _compared(results: Results, *arms: str) -> str:
    kept = {arm: level(estimate(100 * results.column("kept", arm, DENSE))) for arm in (*arms, MAIN)}
    rows = "; ".join(f"{arm} {_closed(results, arm)} at {share} of test retention" for arm, share in kept.items())
    return f"Gap closed: {rows}."


def judgements(results: Results) -> Iterable[Judgement]:
    """All ten."""
    rules = (choice, form, trace, reversed_goals, overshoot, prompts, redirect, skills, sharp, context)
    return [rule(results) for rule in rules]
