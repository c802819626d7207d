"""The audit of a study: some arms computed once more, here and now, beside what was recorded of them."""

from functools import partial

import numpy as np
import pandas as pd

from palimpsest import runs
from palimpsest.chapters.shared import stored, study
from palimpsest.chapters.shared.stored import Arm
from palimpsest.chapters.shared.study import Plan

SPREADS = 2 * 2**0.5
"""Two draws from one normal distribution differ by more than this many standard deviations once in twenty times."""

FLOOR = 0.005
"""The share of a recorded number by which another processor may miss it where replications do not vary."""


def audit(plan: Plan, count: int, seed: int) -> pd.DataFrame:
    """Compute `count` stored arms again, drawn at random with `seed`, from the starts that are stored.

    Returns a row for each arm and number: "recorded", "again", "allowed", the difference that is, "within", and
    "source" and "commit" of what is recorded. The
    spread is the standard deviation over the *other* replications of the arm (other seeds), so that no number widens
    its own bound; with fewer than two of them nothing but `FLOOR` is allowed.

    Raises ValueError where nothing is recorded, for a count outside what can be drawn, and as `study.recompute`.
    """
    recorded = study.recompute(plan)
    if recorded is None:
        raise ValueError(f"study {plan.name}: nothing is recorded; `{plan.command}` computes it")
    arms = [arm for arm in stored.finished(plan.name, plan.arms) if plan.origin(arm) is not None]
    if not 1 <= count <= len(arms):
        raise ValueError(f"arms: got {count}, want from 1 to the {len(arms)} that start from a stored network")
    drawn = [arms[i] for i in sorted(np.random.default_rng(seed).choice(len(arms), count, replace=False))]
    with runs.progress_bar(total=count, desc="audit") as bar:
        call = partial(again, plan, plan.source)
        found = runs.spread(call, drawn, name="audit", done=lambda _: bar.update())
    rows = []
    for arm, numbers in zip(drawn, found, strict=True):
        own = {name: value for name, value in arm.items() if name != "seed"}
        peers = [a for a in arms if a != arm and {n: v for n, v in a.items() if n != "seed"} == own]
        before, others = _numbers(plan, arm), [_numbers(plan, peer) for peer in peers]
        made = stored.header(stored.file_of(plan.name, arm))["made"]
        by = {"source": made["source"], "commit": made["environment"]["commit"]}
        rows += [{"arm": stored.name_of(arm), **row, **by} for row in compare(before, numbers, others)]
    return pd.DataFrame(rows)


def again(plan: Plan, source: str, arm: Arm) -> dict[str, float | None]:
    """The numbers of `arm`, computed anew; {} if it diverges. `source`: as `study.finish`."""
    with runs.alone(plan.compute, triton=True, source=source):
        (outcome,) = plan.compute([arm])
    return study.numbers(plan, arm, stored.rounded(outcome.predictions))


def compare(before: dict, now: dict, others: list[dict]) -> list[dict]:
    """The rows of one arm: numbers `before` and `now`, and those of its `others`, the other replications."""
    if not before or not now:
        state = {True: "measured", False: "diverged"}
        words = {"recorded": state[bool(before)], "again": state[bool(now)]}
        return [{"number": "outcome", **words, "allowed": None, "within": not before and not now}]
    rows = []
    for name in before:
        a, b = before[name], now.get(name)
        if a is None or b is None:
            allowed, within = None, a is b
        else:
            spread = [row[name] for row in others if row.get(name) is not None]
            allowed = max(SPREADS * float(np.std(spread, ddof=1)) if len(spread) > 1 else 0.0, FLOOR * abs(a))
            within = bool(abs(a - b) <= max(allowed, study.EXACT))
        rows.append({"number": name, "recorded": a, "again": b, "allowed": allowed, "within": within})
    return rows


def _numbers(plan: Plan, arm: Arm) -> dict[str, float | None]:
    return study.numbers(plan, arm, stored.predictions(plan.name, arm))
