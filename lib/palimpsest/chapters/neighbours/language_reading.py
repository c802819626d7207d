"""How the chapter's part on language reads a stress test.

A test separates the original from Retrain at this size if the 95 % interval of their paired difference lies above
`LEAST`. Where it does, an arm's place between the two is the share of the way that is left: 100 % is the original,
0 % Retrain. An arm knows "as little as Retrain" by a test if the 90 % interval of that share lies within ± `MARGIN`,
and "more than Retrain" if the 95 % interval lies above 0 and the first is not so; else it is "open". So fixed before
any of these seeds was run; "less than Retrain", the same below 0, was added when one arm needed the word. Intervals
are those of single comparisons.
"""

import pandas as pd

from palimpsest.chapters.neighbours.language_results import ORIGINAL, RETRAIN, Results
from palimpsest.chapters.sau.arms import DENSE
from palimpsest.chapters.sau.profiles import JUDGED_AT
from palimpsest.metrics.statistics import Estimate, estimate, p_equivalent, paired

LEAST = 5.0
"""Points: the least difference of original and Retrain that a test is of use at."""
MARGIN = 10.0
"""Points of the way from Retrain to the original: as much as the words of an answer make up for."""
RECIPES = (DENSE, JUDGED_AT)
TESTS = {
    "question": "the question as unlearned",
    "reworded": "in new words",
    "cloze": "as a sentence to complete",
    "choice": "with choices",
    "reversed": "the other way",
    "forget_2": "in words that were learnt, not unlearned",
    "told": "with the answer in the prompt",
    "relearnt": "after relearning a tenth",
    "written": "written by value vectors",
    "jaccard": "tokens of traced value vectors",
}
"""Column -> what it asks. Percent of questions, of probability, or of the original's value; all rise with what a
model still knows."""


def values(results: Results, test: str, arm: str, recipe: tuple[str, str]) -> pd.Series:
    """A column in percent by seed; what value vectors write is in logits, and taken as a share of the original's."""
    found = results.column(test, arm, recipe)
    if test == "written":
        found = found / results.column(test, ORIGINAL, recipe)
    return 100 * found


def separation(results: Results, test: str, recipe: tuple[str, str]) -> Estimate:
    """The original less Retrain, paired by seed."""
    return paired(*(values(results, test, whose, recipe) for whose in (ORIGINAL, RETRAIN)))


def separates(results: Results, test: str, recipe: tuple[str, str]) -> bool:
    return separation(results, test, recipe).low > LEAST


def remaining(results: Results, test: str, arm: str, recipe: tuple[str, str]) -> pd.Series:
    """What is left of the original's lead over Retrain, in percent of the mean lead, by seed."""
    beyond = values(results, test, arm, recipe) - values(results, test, RETRAIN, recipe)
    return 100 * beyond / separation(results, test, recipe).mean


def left(results: Results, test: str, arm: str, recipe: tuple[str, str]) -> Estimate:
    """`remaining` over seeds."""
    return estimate(remaining(results, test, arm, recipe))


def verdict(found: Estimate) -> str:
    """Of what is `left`, in words."""
    if p_equivalent(found, 0, MARGIN) <= 0.05:
        return "as little as Retrain"
    if found.low > 0:
        return "more than Retrain"
    return "less than Retrain" if found.high < 0 else "open"


def named(recipe: tuple[str, str]) -> str:
    return "dense" if recipe == DENSE else " ".join(recipe)


def arms(results: Results, recipe: tuple[str, str]) -> list[str]:
    """The arms that were run at a recipe, without the two references, in their order."""
    rows = results.rows[results.rows.pruner.eq(recipe[0]) & results.rows.sparsity.eq(recipe[1])]
    return [arm for arm in dict.fromkeys(rows.arm) if arm not in (ORIGINAL, RETRAIN)]
