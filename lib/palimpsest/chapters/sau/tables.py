"""The tables of SAU's study, from recorded rows. None computes a result but intervals over questions."""

import textwrap

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from palimpsest.chapters.sau.arms import DENSE, PRUNED_FIRST, kind_of
from palimpsest.chapters.sau.claims import NAMES
from palimpsest.chapters.sau.profiles import PAPER, PROFILES, Rows, SmolLM2
from palimpsest.unlearning.language import evaluation

RESAMPLES = 2000
BY = ["loss", "pruner", "sparsity", "kind"]
UPDATES = {**NAMES, "A bare": "U→P, not recovered"}
ARM = ["loss", "pruning", "update"]
GAP, AHEAD = (tuple(f"{name}{end}" for end in ("", ", low", ", high")) for name in ("gap closed", "ahead"))
"""Value and ends of the interval of two columns of `arms`."""
KEPT = {name: f"{name.replace('_', ' ')} kept, %" for name in evaluation.UTILITY}
BESIDE_MASKED = {kind_of(*update) for update in PRUNED_FIRST} - {"C"}
"""The kinds of arm that are set against masked updates."""
MODELS = {"target": "target", "oracle": "oracle", **NAMES}


def named(pruner: str, sparsity: str, recovered: frozenset[tuple[str, str]] = frozenset()) -> str:
    """A recipe of pruning in words; those that need recovery are called degraded."""
    if (pruner, sparsity) == DENSE:
        return "dense"
    return f"{pruner} {sparsity}" + (", degraded" if (pruner, sparsity) in recovered else "")


def _update(kind: str, pruner: str, sparsity: str) -> str:
    """What an arm moves, in words; arm A of a dense model is not pruned yet."""
    return "all weights" if (pruner, sparsity) == DENSE else UPDATES[kind]


def sizes(profile: str) -> pd.DataFrame:
    """What a profile takes, beside `paper`."""
    columns = {"paper": _sizes(PAPER), profile: _sizes(PROFILES[profile])}
    return pd.DataFrame(columns).rename_axis("what").reset_index()


def _sizes(s: SmolLM2) -> dict[str, str]:
    def count(*spans: Rows) -> int:
        return sum(last - first for _, first, last in spans)

    recovered = [f"{named(*where)}: {epochs} epochs" for where, (epochs, _) in s.recovery.items()]
    return {
        "questions to forget": str(count(s.forget)),
        "questions that the target learns": str(count(s.forget, s.examined, *s.retain, s.tuning)),
        "layers that train and forget": "all" if s.top is None else f"the last {s.top}",
        "epochs of fine-tuning": str(s.training.epochs),
        "pruning": ", ".join(named(*where) for where in s.recipes),
        "recovery": ", ".join(recovered) or "none",
        "calibration tokens": str(s.calibration[0] * s.calibration[1]),
        "losses": ", ".join(dict.fromkeys(arm.loss for arm in s.arms)),
        "updates": "; ".join(NAMES[kind] for kind in dict.fromkeys(arm.kind for arm in s.arms)),
        "step sizes compared for every arm": str(len(s.grid)),
        "epochs of unlearning, at most": str(s.unlearn_epochs),
        "questions in a batch": str(s.unlearn_batch),
        "real questions in a half of retention": "all" if s.facts is None else f"{s.facts} of either kind",
        "seeds": str(len(s.seeds)),
    }


def tuned(found: list[dict], grid: tuple[float, ...]) -> pd.DataFrame:
    """The step size that each loss and update was given, and whether it lies at an edge of the grid."""
    rows = [
        {
            "loss": one["loss"],
            "pruning": named(one["pruner"], one["sparsity"]),
            "update": _update(one["kind"], one["pruner"], one["sparsity"]),
            "step size": f"{one['lr']:g}",
            "edge of the grid": {min(grid): "lower", max(grid): "upper"}.get(one["lr"], "no"),
        }
        for one in found
    ]
    return pd.DataFrame(rows)


def references(rows: pd.DataFrame, recovered: frozenset[tuple[str, str]] = frozenset()) -> pd.DataFrame:
    """The published model, target and oracle by recipe: mean answer probabilities, over seeds."""
    part = rows[rows.kind.isin(["published", "target", "oracle"])]
    columns = ["forget", "forget_2", "retain", "real_authors", "world_facts"]
    table = part.groupby(["pruner", "sparsity", "kind"], sort=False)[columns].mean().round(3).reset_index()
    table.insert(0, "pruning", [named(p, s, recovered) for p, s in zip(table.pruner, table.sparsity, strict=True)])
    return table.drop(columns=["pruner", "sparsity"])


def share(start, unlearned, target, oracle, resamples: int = RESAMPLES) -> tuple[float, float, float]:
    """How far `unlearned` lies beyond `start`, in % of the gap from target to oracle, and the 95 % percentile
    bootstrap of that over questions: [n] answer probabilities of four models, of which each resample takes the same
    questions. From the target on it is the gap closed."""

    def gap(s, u, t, o, axis=-1):
        return 100 * (s.mean(axis) - u.mean(axis)) / (t.mean(axis) - o.mean(axis))

    models = [np.asarray(model) for model in (start, unlearned, target, oracle)]
    found = bootstrap(
        models,
        gap,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(gap(*models)), float(found.confidence_interval.low), float(found.confidence_interval.high)


def arms(
    rows: pd.DataFrame, recovered: frozenset[tuple[str, str]] = frozenset(), resamples: int = RESAMPLES
) -> pd.DataFrame:
    """One row per arm, losses and recipes together: "gap closed" in % with its interval over the questions of all
    seeds; "ahead", that of the difference to the masked arm of its loss and recipe; what it cost, in % kept; where on
    its course it was taken, and the factor that SAU or a boost put on its steps."""

    def each(kind: str, part: pd.DataFrame) -> np.ndarray:
        """The answer probabilities of a kind of row, those of all seeds."""
        return np.concatenate(part[part.kind == kind].sort_values("seed")["forget each"].tolist())

    found = []
    for (loss, pruner, sparsity, kind), part in rows[rows.loss != "none"].groupby(BY, sort=False):
        alike = rows[(rows.pruner == pruner) & (rows.sparsity == sparsity)]
        ends = [each(whose, alike) for whose in ("target", "oracle")]
        unlearned, left, ahead = each(kind, part), part["non-zero"], (np.nan,) * 3
        if kind in BESIDE_MASKED:
            ahead = share(each("C", alike[alike.loss == loss]), unlearned, *ends, resamples)
        found.append(
            {
                "loss": loss,
                "pruning": named(pruner, sparsity, recovered),
                "update": _update(kind, pruner, sparsity),
                **dict(zip(GAP, share(ends[0], unlearned, *ends, resamples), strict=True)),
                **dict(zip(AHEAD, ahead, strict=True)),
                "forget": part.forget.mean(),
                "in other words": part.forget_2.mean(),
                **{KEPT[name]: 100 * part[f"{name} kept"].mean() for name in evaluation.UTILITY},
                "epochs": part.epochs.mean(),
                "factor": part.factor.astype(float).mean(),
                "pruned weights not zero": left.sum() if left.notna().all() else np.nan,
            }
        )
    table = pd.DataFrame(found)
    return table.sort_values(["loss", "pruning"], key=lambda c: pd.factorize(c)[0], kind="stable", ignore_index=True)


def reached(table: pd.DataFrame) -> pd.DataFrame:
    """Of a table of `arms` what each forgot, to be shown."""

    def spread(columns: tuple[str, str, str]) -> list[str | None]:
        return [
            None if np.isnan(value) else f"{value:z.1f} [{low:z.1f}, {high:z.1f}]"
            for value, low, high in table[[*columns]].itertuples(index=False)
        ]

    shown = table[ARM].assign(**{"gap closed, %": spread(GAP), "ahead of masked": spread(AHEAD)})
    return shown.join(table[["forget", "in other words"]].round(3))


def costs(table: pd.DataFrame) -> pd.DataFrame:
    """Of a table of `arms` what each kept, and how it got there, to be shown."""
    shown = table[ARM].join(table[[*KEPT.values()]].round(1)).join(table[["epochs", "factor"]].round(2))
    return shown.join(table["pruned weights not zero"].map("{:.0f}".format, na_action="ignore"))


def scores(rows: pd.DataFrame) -> pd.DataFrame:
    """TOFU's scores of the models that were examined."""
    columns = ["utility", "rouge", "D", "log10 p", "PrivLeak", "4-bit"]
    part = rows[rows.utility.notna()]
    table = part.groupby("kind", sort=False)[columns].mean().round(2).reset_index()
    return table.assign(kind=table.kind.map(MODELS)).rename(columns={"kind": "model"})


def utilities(rows: pd.DataFrame) -> pd.DataFrame:
    """The nine scores whose harmonic mean the utility is, one per row, and one column per model: means over seeds."""
    part = rows[rows.utility.notna()]
    nine = pd.DataFrame(part.scores.tolist()).groupby(part.kind.map(MODELS).to_numpy(), sort=False).mean()
    nine.columns = nine.columns.str.replace("_", " ")
    return nine.T.round(3).rename_axis("score").reset_index()


def answers(rows: pd.DataFrame) -> pd.DataFrame:
    """What the models of the first seed say to some forget questions: one row per question, one column per model."""
    part = rows[rows.utility.notna() & (rows.seed == rows.seed.min())]
    said = {MODELS[kind]: list(texts.values()) for kind, texts in zip(part.kind, part.answers, strict=True)}
    return pd.DataFrame({"question": list(part.answers.iloc[0])} | said).map(_opening)


def fact_probabilities(reports: dict[str, dict]) -> pd.DataFrame:
    """Reports of `palimpsest unlearn` on one model and its questions, by name: mean answer probabilities by set."""
    first = next(iter(reports.values()))
    models = {when: first[when] for when in ("before", "pruned")} | {n: r["after"] for n, r in reports.items()}
    rows = [
        {"model": model} | {name.replace("_", " "): round(found[name], 3) for name in found["answers"]}
        for model, found in models.items()
    ]
    return pd.DataFrame(rows)


def fact_answers(reports: dict[str, dict]) -> pd.DataFrame:
    """The same reports: each question that they ask, the answer before, and that after each run."""
    first = next(iter(reports.values()))["before"]["answers"]
    rows = [
        {"set": name.replace("_", " "), "question": question, "before": answer}
        | {n: r["after"]["answers"][name][question] for n, r in reports.items()}
        for name, answers in first.items()
        for question, answer in answers.items()
    ]
    return pd.DataFrame(rows).map(_opening)


def _opening(text: str) -> str:
    """A model that repeats itself fills any table; its first words tell that it does."""
    return textwrap.shorten(text, 110, placeholder=" …")
