"""The tables of the chapter's part on language. None computes a result but intervals over seeds."""

from collections.abc import Callable

import pandas as pd

from palimpsest.chapters.neighbours.language_reading import (
    RECIPES,
    TESTS,
    arms,
    left,
    named,
    separates,
    separation,
    values,
    verdict,
)
from palimpsest.chapters.neighbours.language_results import ORIGINAL, RETRAIN, Results
from palimpsest.chapters.neighbours.language_search import chosen
from palimpsest.chapters.sau.arms import DENSE
from palimpsest.chapters.shared.judging import level, show
from palimpsest.metrics.statistics import Estimate, estimate, paired


def tests(results: Results) -> pd.DataFrame:
    """Every test at every recipe: original, Retrain, their difference with its interval, and whether it separates."""
    rows = []
    for test, asks in TESTS.items():
        for recipe in RECIPES:
            both = [estimate(values(results, test, whose, recipe)) for whose in (ORIGINAL, RETRAIN)]
            rows.append(
                {
                    "test": asks,
                    "model": named(recipe),
                    "original": level(both[0]),
                    "Retrain": level(both[1]),
                    "difference": show(separation(results, test, recipe)),
                    "separates": "yes" if separates(results, test, recipe) else "cannot at this size",
                }
            )
    return pd.DataFrame(rows)


def compared(results: Results) -> pd.DataFrame:
    """Every arm: gap closed and retention on the test half, with intervals, and where it was taken."""
    rows = []
    for recipe in RECIPES:
        for arm in arms(results, recipe):
            rows.append(
                {
                    "arm": arm,
                    "model": named(recipe),
                    "gap closed": level(estimate(100 * results.column("gap closed", arm, recipe))),
                    "retention kept": level(estimate(100 * results.column("kept", arm, recipe))),
                }
            )
    return pd.DataFrame(rows)


def ahead(results: Results, of: str, recipe: tuple[str, str] = DENSE) -> pd.DataFrame:
    """Gap closed by the other arms of a recipe less that of one, paired by seed."""
    gaps = {arm: 100 * results.column("gap closed", arm, recipe) for arm in arms(results, recipe)}
    rows = [{"arm": arm, f"ahead of {of}": show(paired(gap, gaps[of]))} for arm, gap in gaps.items() if arm != of]
    return pd.DataFrame(rows)


def stressed(results: Results) -> pd.DataFrame:
    """What every arm still knows by every test that separates, in percent of the original's lead over Retrain."""
    return _by_arm(results, level)


def verdicts(results: Results) -> pd.DataFrame:
    """The same in words."""
    return _by_arm(results, verdict)


def _by_arm(results: Results, say: Callable[[Estimate], str]) -> pd.DataFrame:
    rows = []
    for recipe in RECIPES:
        useful = {test: asks for test, asks in TESTS.items() if separates(results, test, recipe)}
        for arm in arms(results, recipe):
            found = {asks: say(left(results, test, arm, recipe)) for test, asks in useful.items()}
            rows.append({"arm": arm, "model": named(recipe)} | found)
    return pd.DataFrame(rows)


def in_context(results: Results) -> pd.DataFrame:
    """Does a model take from its prompt what it does not know? The answer's probability where it is shown less that
    where another is, in points, paired by seed."""
    rows = [
        {
            "arm": arm,
            "model": named(recipe),
            "shown less another shown": show(
                paired(*(100 * results.column(name, arm, recipe) for name in ("told", "other")))
            ),
        }
        for recipe in RECIPES
        for arm in (ORIGINAL, RETRAIN, *arms(results, recipe))
    ]
    return pd.DataFrame(rows)


def ablated(results: Results) -> pd.DataFrame:
    """The original without some value vectors of each layer, in %: the forget facts, and the retention kept."""
    rows = []
    for (vectors, which), part in results.ablated.groupby(["vectors", "which"], sort=False):
        found = {"probability of the facts": part.fact, "retention kept": part.kept}
        shown = {name: level(estimate(100 * values)) for name, values in found.items()}
        rows.append({"vectors of a layer": vectors, "which": which} | shown)
    return pd.DataFrame(rows)


def searched(found: pd.DataFrame) -> pd.DataFrame:
    """Of the trials of the search: what was chosen for each rival, what it reached, at which edges of its grid."""
    best, rows = chosen(found), []
    for rival, part in found.groupby("rival", sort=False):
        gaps = part[part.settings.eq(best[rival])]["gap closed"]
        rows.append(
            {
                "rival": rival,
                "chosen": ", ".join(f"{name} {value:g}" for name, value in best[rival].items()),
                "gap closed, %": f"{100 * gaps.mean():.1f} ± {100 * gaps.std():.1f}",
                "at the edge of": ", ".join(edges(part, best[rival])) or "none",
                "trials": len(part),
                "diverged": int(part["gap closed"].isna().sum()),
            }
        )
    return pd.DataFrame(rows)


def edges(part: pd.DataFrame, chosen: dict[str, float]) -> list[str]:
    """The settings whose chosen value is the least or the largest that was tried, of those tried with several."""
    tried = {name: sorted({settings[name] for settings in part.settings}) for name in chosen}
    return [name for name, values in tried.items() if len(values) > 1 and chosen[name] in (values[0], values[-1])]
