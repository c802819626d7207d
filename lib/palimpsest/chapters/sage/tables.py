"""The tables of the SAGE chapter. None computes a result but intervals over seeds."""

import pandas as pd

from palimpsest.chapters.sage.claims import NAMES, speed, taus
from palimpsest.chapters.sage.results import Results, cost_per_token, size
from palimpsest.metrics.statistics import Estimate, estimate

SHOWN = ("class in descriptions", "levels right", "drafter agrees", "tokens")
"""What is told of the pair, see `build.pair_quality`."""


def speeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Tokens per second without the prefills, arm by seed."""
    rate = (rows["timed tokens"] - rows["timed requests"]) / rows["timed decode"]
    return rate.groupby([rows.arm, rows.seed], sort=False).first().unstack().dropna()


def arms(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per arm, means over seeds and 95 % intervals: accepted drafts, nodes and levels per round, forwards per
    token, texts that are plain decoding's, and the measured speed, absolute and relative to plain decoding here."""
    by_arm, rate = rows.groupby("arm", sort=False), speeds(rows)
    found = []
    for arm, part in by_arm:
        row = {"policy": NAMES.get(arm, arm)}
        if part.tau.notna().all():
            tau = estimate(part.tau)
            row |= {
                "accepted per round": f"{tau.mean:.2f} [{tau.low:.2f}, {tau.high:.2f}]",
                "nodes": round(part.nodes.mean(), 1),
                "levels": round(part.levels.mean(), 1),
                "cost a token": round(part.cost.mean(), 3),
                "same text": f"{part.same.mean():.1%}",
            }
        if arm in rate.index:
            relative = estimate(rate.loc[arm] / rate.loc["autoregressive"])
            row |= {
                "tokens/s": round(rate.loc[arm].mean(), 1),
                "speed": f"{relative.mean:.2f} [{relative.low:.2f}, {relative.high:.2f}]",
            }
        found.append(row)
    return pd.DataFrame(found)


def pair(measured: dict) -> pd.DataFrame:
    """What the pair can do on held-out pictures."""
    shares = pd.Series({name: measured["quality"][name] for name in SHOWN}, dtype=float)
    return shares.round(3).rename_axis("what").reset_index(name="measured")


def forwards(measured: dict) -> pd.DataFrame:
    """Milliseconds of one forward by its number of rows: c(N) of target and drafter."""
    table = pd.DataFrame(measured["forwards"]).pivot(index="rows", columns="model", values="seconds")
    return (1e3 * table[["target", "drafter"]]).round(2).reset_index().rename_axis(columns=None)


def _interval(e: Estimate) -> str:
    return f"{e.mean:.2f} [{e.low:.2f}, {e.high:.2f}]"


def _option(name: str, value) -> str:
    """A fitted tree by its size, any other option as it is."""
    return f"tree of {len(value)} nodes" if name == "parents" else f"{name} {value}"


def tuning(results: Results) -> pd.DataFrame:
    """What tuning tried for the chapter's drafter: accepted drafts, nodes and cost, mean and 95 % interval over its
    seeds, and which setting was taken."""
    found = []
    table = results.tuning[results.tuning.pair == "vision"]
    # A setting has lists among its options; its place in the search stands for it.
    for (policy, _), part in table.groupby(["policy", table.options.map(str)], sort=False):
        options = part.options.iloc[0]
        took = [
            what
            for what, arm in (("length", LONGEST.get(policy, policy)), ("speed", f"{policy}, cheapest"))
            if arm in results.arms and results.arms[arm].options == options
        ]
        row = {
            "policy": {"sage": "SAGE"}.get(policy, NAMES[policy]),
            "setting": ", ".join(_option(*one) for one in options.items()) or "as stated",
        }
        if len(part) > 1:
            row |= {
                "accepted per round": _interval(estimate(part.tau)),
                "cost per token": _interval(estimate(part.cost)),
            }
        found.append(row | {"nodes": round(part.nodes.mean(), 1), "taken for": " and ".join(took)})
    return pd.DataFrame(found)


LONGEST = {"sage": "sage, tuned"}
"""Where the arm with the longest accepted length is not called by the policy's name."""
SHOWN_BUDGETS = (
    *("specvlm", "static, 25 nodes, 5 levels", "static, 25 nodes", "sage, 5 levels", "sage", "static, small"),
    *(
        "sage, tuned",
        "static, tuned size",
        "static",
        "chain",
        "eagle2",
        "eagle2, small",
        "opt_tree",
        "opt_tree, small",
    ),
)


def _counted(results: Results, arm: str) -> dict:
    part = results.of(arm)
    rounds = part.accepted.map(len).sum()
    return {
        "accepted per round": _interval(estimate(taus(results, arm))),
        "nodes": f"{size(part):.1f}",
        "levels": f"{part.depths.map(sum).sum() / rounds:.1f}",
        "drafter's forwards": f"{part['draft forwards'].sum() / rounds:.1f}",
        "cost per token": f"{cost_per_token(part, results.costs):.3f}",
        "pictures": len(part),
    }


def budgets(results: Results) -> pd.DataFrame:
    """Accepted drafts per round with their interval over seeds, and what they cost, of the chapter's drafter."""
    return pd.DataFrame([{"policy": NAMES[arm]} | _counted(results, arm) for arm in SHOWN_BUDGETS])


def decoded(results: Results) -> pd.DataFrame:
    """Arms at a temperature above 0, and drafters without a model."""
    warm = [name for name, arm in results.arms.items() if arm.temperature and arm.policy != "autoregressive"]
    rows = []
    for name in (*warm, "recycling", "lookup"):
        arm = results.arms[name]
        label = NAMES[arm.policy] if arm.temperature else f"SAGE on {name}"
        setting = f"T = {arm.temperature:g}" if arm.temperature else "without a model"
        rows.append({"setting": setting, "policy": label} | _counted(results, name))
    return pd.DataFrame(rows)


def speeds_of_both(results: Results, bench: pd.DataFrame) -> pd.DataFrame:
    """Speed over plain decoding by counted forwards at their recorded cost, and by the recorded wall clock."""
    plain, rows = speed(bench, "autoregressive"), []
    for arm in ("chain, cheapest", "specvlm", "static, cheapest", "sage", "sage, cheapest"):
        counted = 1 / results.by_seed(arm, lambda part: cost_per_token(part, results.costs))
        rows.append(
            {
                "policy": NAMES.get(arm, arm),
                "by counted forwards": _interval(estimate(counted)),
                "by the clock": _interval(estimate(speed(bench, arm) / plain)),
            }
        )
    return pd.DataFrame(rows)
