"""Made-up tables of the unlearning experiment, in which the answer is known."""

import numpy as np
import pandas as pd

from palimpsest.chapters.unlearning_quantised import experiment
from palimpsest.chapters.unlearning_quantised.arms import (
    ELSEWHERE,
    HEADLINE,
    IN_FLOAT,
    METHODS,
    REFERENCES,
    SWEEP,
)

SEEDS = range(300, 305)
VALUES = (0.01, 0.03)
"""The first does better by five points on validation images, for every method and seed."""


def margins(correlation: float, seed: int, target: bool = False) -> np.ndarray:
    """[60] changes of margins whose correlation with those of the `target` of the seed is exactly `correlation`."""
    own = np.random.default_rng(seed)
    first, second = (x - x.mean() for x in own.normal(size=(2, 60)))
    first /= np.linalg.norm(first)
    second -= first * (first @ second)
    second /= np.linalg.norm(second)
    return first if target else correlation * first + np.sqrt(1 - correlation**2) * second


def made_up(columns: dict | None = None, courses: dict | None = None, tuned_on: int = 2, **gaps: float):
    """Results where every method has a gap of 10 points with a little noise shared within a seed, unless `gaps` names
    another (underscores for blanks, `@` for one precision); `columns` maps (method, column) to a value in the
    column's own units, `courses` a method to the correlation of its margins' changes with Retrain's, else 0.5."""
    noise, own = np.random.default_rng(0).normal(0, 0.5, len(SEEDS)), np.random.default_rng(1)
    base = {"FA": 0.8, "RA": 0.97, "TA": 0.78, "MIA": 0.2, "entropy": 0.4, "rte": 0.2}
    courses = {"original": 0.0, "retrain": 1.0, "retrain again": 0.7} | (courses or {})

    def row(method: str, precision: str, i: int) -> dict:
        gap = gaps.get(f"{method}@{precision}".replace(" ", "_"), gaps.get(method.replace(" ", "_"), 10.0))
        found = {key: value + own.normal(0, 1e-3) for key, value in base.items()}
        found |= {c: v + own.normal(0, 1e-3) for (m, c), v in (columns or {}).items() if m == method}
        start = np.arange(60.0)  # of the original, whose margins the changes are added to
        change = margins(1.0, i, target=True) if method == "retrain" else margins(courses.get(method, 0.5), i)
        found["margins"] = (start if method == "original" else start + change).tolist()
        return found | {"gap": gap + noise[i] + own.normal(0, 0.1), "seed": SEEDS[i], "diverged": False}

    def rows(methods, precision: str, forget_set: str, values=(0.01,)) -> list[dict]:
        where = {"precision": precision, "forget_set": forget_set}
        return [
            where | {"method": m, "value": v, "tuning_gap": 5.0 + 5 * (v != VALUES[0])} | row(m, precision, i)
            for m in methods
            for v in values
            for i in range(len(SEEDS))
        ]

    tuned = (tuple(METHODS), HEADLINE[0]), (IN_FLOAT, "float")
    tried = pd.DataFrame([r for methods, p in tuned for r in rows(methods, p, HEADLINE[1], VALUES)])
    others = [r for _, p in tuned for r in rows(REFERENCES, p, HEADLINE[1])]
    others += rows((*REFERENCES[:2], *ELSEWHERE), HEADLINE[0], "one class")
    log = pd.DataFrame(
        [
            {"method": "Q-MUL", "precision": p, "forget_set": HEADLINE[1], "seed": seed, "step": step, "weight_f": w}
            for p in ("float", HEADLINE[0])
            for seed in SEEDS
            for step, w in ((0, 0.1), (1, None), (2, 0.3))
        ]
    )
    rows = pd.concat([pd.DataFrame(others), tried[tried.value == VALUES[0]]], ignore_index=True)
    return experiment.Results(tried, rows, log, experiment.chosen(tried, tuned_on), tuned_on)


def noises(spread: float = 0.02, **changes: float) -> pd.DataFrame:
    """The table of `probes.noise`: both noises are 1, up to a factor e to the power of a normal number times
    `spread`, unless `<column>@<precision>` or `<column>@<first word of the loss>` names another."""
    own = np.random.default_rng(2)

    def value(column: str, precision: str, loss: str) -> float:
        named = (changes.get(f"{column}@{key}") for key in (precision, loss.split()[0]))
        return next((v for v in named if v is not None), 1.0) * np.exp(spread * own.normal())

    return pd.DataFrame(
        [
            {
                **{"precision": p, "loss": loss, "seed": seed, "cosine": -0.3, "G_f": 100.0, "G_r": 10.0},
                **{column: value(column, p, loss) for column in ("noise", "label_noise")},
            }
            for p in SWEEP
            for loss in ("random labels", "similar labels")
            for seed in SEEDS
        ]
    )


def pairs(opposed: float = 0.5, null: float = 0.1, cost: float = 0.3, balance=0.0, spread: float = 0.02):
    """The table of `probes.conflict`: this share of 40 pairs of a seed has opposed gradients, of its nulls this one;
    the forget gradient takes back `cost` of the descent, and ln (w_f G_f / w_r G_r) is `balance`."""
    own, rows = np.random.default_rng(3), []
    for seed in SEEDS:
        jitter = spread * own.normal(size=4)
        for i in range(40):
            signs = [
                1 if (i + 0.5) / 40 > share + j else -1 for share, j in zip((opposed, null), jitter, strict=False)
            ]
            rows.append(
                {
                    **{"precision": HEADLINE[0], "seed": seed, "epoch": i // 20},
                    **{"cosine": 0.3 * signs[0], "null": 0.3 * signs[1]},
                    **{"by_forget": cost + jitter[2], "by_retain": -1.0},
                }
            )
        rows += [{"seed": seed, "epoch": epoch, "balance": balance + jitter[3]} for epoch in range(2)]
    return pd.DataFrame(rows)


def changes(power: float = 2.0) -> pd.DataFrame:
    """The table of `probes.first_order`: |ΔL| is η to this power along g_f⊥ on its own batch, else η."""
    own = np.random.default_rng(4)
    directions = [("g_f", "same"), ("g_f orthogonal", "same"), ("g_f orthogonal", "other"), ("momentum", "same")]
    return pd.DataFrame(
        [
            {
                **{"precision": p, "direction": d, "batch": b, "seed": seed, "step": 10.0**e},
                "change": 10.0 ** (e * (power if (d, b) == ("g_f orthogonal", "same") else 1))
                * (1 + own.random() / 50),
            }
            for p in ("float", "W4A4")
            for d, b in directions
            for seed in SEEDS
            for e in np.arange(-6, 0.1, 0.5)
        ]
    )
