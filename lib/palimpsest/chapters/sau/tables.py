"""The tables of the SAU chapter. None computes a result but intervals, over seeds or over questions."""

import re
import textwrap
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from palimpsest.chapters.sau.arms import DENSE, PRUNED_FIRST, kind_of
from palimpsest.chapters.sau.claims import NAMES
from palimpsest.chapters.sau.profiles import JUDGED_AT, MAIN, PAPER, PROFILES, Rows, SmolLM2
from palimpsest.chapters.sau.search import alike, at_best, chosen
from palimpsest.chapters.shared.judging import level, show
from palimpsest.data.questions import Questions
from palimpsest.metrics.statistics import estimate, paired
from palimpsest.unlearning.language import evaluation

RESAMPLES = 2000
BY = ["loss", "pruner", "sparsity", "kind"]
UPDATES = {**NAMES, "A bare": "U→P, not recovered", "E": "dense, random share moves"}
PLAIN = {"lost": "direction", "optimiser": "adamw", "frozen": False, "again": False}
"""The fields by which an aside may differ from an arm."""
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
        "updates": "; ".join(UPDATES[kind] for kind in dict.fromkeys(arm.kind for arm in s.arms)),
        "moves of the search, at most": str(s.moves),
        "epochs of unlearning, at most": str(s.unlearn_epochs),
        "questions in a batch": str(s.unlearn_batch),
        "real questions in a half of retention": "all" if s.facts is None else f"{s.facts} of either kind",
        "seeds": str(len(s.seeds)),
    }


def searched(found: pd.DataFrame) -> pd.DataFrame:
    """Of the trials of a search: the values chosen for each arm, what they reached, and how many places it tried."""
    rows, values = [], chosen(found)
    for key, gaps in at_best(found).items():
        loss, kind, pruner, sparsity = key
        part = alike(found, loss=loss, kind=kind, pruner=pruner, sparsity=sparsity)
        lr, alpha = values[key]
        rows.append(
            {
                "loss": loss,
                "pruning": named(pruner, sparsity),
                "update": UPDATES.get(kind, kind),
                "step size": f"{lr:g}",
                "α": f"{alpha:g}",
                "gap closed, %": f"{100 * gaps.mean():.1f} ± {100 * gaps.std():.1f}",
                "trials": len(part[["lr", "alpha"]].drop_duplicates()),
                "diverged": int(part["gap closed"].isna().sum()),
            }
        )
    return pd.DataFrame(rows)


def losses(found: pd.DataFrame) -> pd.DataFrame:
    """What each loss reached on the seeds of the search, for the arms that it was tried with."""
    rows: dict[str, dict] = {}
    for (loss, kind, *recipe), gaps in at_best(found).items():
        if kind in ("A", "B", "D wanda") and tuple(recipe) in (DENSE, JUDGED_AT):
            column = "dense" if kind == "A" else UPDATES[kind]
            rows.setdefault(loss, {"loss": loss})[column] = level(estimate(100 * gaps))
    return pd.DataFrame(rows.values())


def forms(taken: pd.DataFrame) -> pd.DataFrame:
    """Rows of `probes.steps`: means over seeds, and what a step costs for what it brings."""
    table = taken.groupby(["sparsity", "step"], sort=False)[
        ["length", "cosine", "progress", "forget", "retain"]
    ].mean()
    table["retain per forget"] = table["retain"] / table["forget"]
    names = {"forget": "forget loss rises by", "retain": "other loss rises by"}
    return table.rename(columns=names).round(3).reset_index()


def dips(rows: pd.DataFrame) -> pd.DataFrame:
    """How many runs of an arm fall below the bar on their way, what the gap was at the look before, and at the end
    where they are taken."""
    found = []
    part = rows[rows.loss.eq(MAIN) & rows.course.notna()]
    for (pruner, sparsity, kind), runs in part.groupby(["pruner", "sparsity", "kind"], sort=False):
        dipped = runs[runs.dip.notna()]
        before = [
            100 * (row.course[0]["forget"] - row.course[int(row.dip) - 1]["forget"]) / row.course[0]["forget"]
            for row in dipped.itertuples()
        ]
        found.append(
            {
                "pruning": named(pruner, sparsity),
                "update": _update(kind, pruner, sparsity),
                "runs": len(runs),
                "below the bar on the way": len(dipped),
                "forgotten before, % of the start": f"{np.mean(before):.0f}" if before else "",
                "gap closed where taken, %": f"{100 * runs['gap closed'].mean():.0f}",
            }
        )
    return pd.DataFrame(found)


def asides(results, setting) -> pd.DataFrame:
    """The arms that run on fewer seeds, each beside the arm of `setting.arms` that it is a variant of, where there is
    one at its recipe."""
    rows = []
    for arm in (*setting.asides, *(a for a in setting.arms if a.again)):
        mine = 100 * results.column("gap closed", arm.kind, arm.pruner, arm.sparsity, arm.loss)
        plain = replace(arm, **PLAIN, importance=arm.importance and "wanda")
        row = {
            "pruning": named(arm.pruner, arm.sparsity),
            "update": UPDATES.get(arm.kind, arm.kind),
            "seeds": len(mine),
            "gap closed, %": level(estimate(mine)),
        }
        if plain != arm and plain in setting.arms:
            whole = 100 * results.column("gap closed", plain.kind, arm.pruner, arm.sparsity, arm.loss)
            row["ahead of its plain form"] = show(paired(mine, whole[mine.index]), "")
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


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
                "taken at look": part.taken.mean(),
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
    shown = table[ARM].join(table[[*KEPT.values()]].round(1)).join(table[["taken at look", "factor"]].round(2))
    return shown.join(table["pruned weights not zero"].map("{:.0f}".format, na_action="ignore"))


def scores(rows: pd.DataFrame) -> pd.DataFrame:
    """TOFU's scores of the models that were examined."""
    columns = ["utility", "rouge", "D", "log10 p", "PrivLeak", "4-bit"]
    part = rows[rows.utility.notna()]
    table = part.groupby("kind", sort=False)[columns].mean().round(2).reset_index()
    return table.assign(kind=table.kind.map(MODELS)).rename(columns={"kind": "model"})


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
    """The same reports: each question that they ask, the answer before, that after pruning alone, and after each
    run."""
    first = next(iter(reports.values()))
    said = {"before": first["before"], "pruned only": first["pruned"]} | {n: r["after"] for n, r in reports.items()}
    rows = [
        {"set": name.replace("_", " "), "question": question}
        | {model: found["answers"][name][question] for model, found in said.items()}
        for name, answers in first["before"]["answers"].items()
        for question in answers
    ]
    return pd.DataFrame(rows).map(_opening)


def facts_broken(reports: dict[str, dict], known: dict[str, Questions]) -> pd.DataFrame:
    """The same reports against the answers of the files they were asked from: how many questions of each set are
    answered rightly, and which names were lost that the model gave before. An answer is right where it has a name of
    the file's answer that the question has not."""
    first = next(iter(reports.values()))
    answers = {when: first[when]["answers"] for when in ("before", "pruned")}
    answers |= {n: r["after"]["answers"] for n, r in reports.items()}
    rows = []
    for name, questions in known.items():
        pairs = zip(questions.question, questions.answer, strict=True)
        keys = {asked: _names(answer) - _names(asked) for asked, answer in pairs if asked in answers["before"][name]}
        right = {
            model: {asked for asked, names in keys.items() if names & _names(found[name][asked])}
            for model, found in answers.items()
        }
        for model, hit in right.items():
            lost = [", ".join(sorted(keys[q])) for q in answers["before"][name] if q in right["before"] - hit]
            rows.append(
                {"set": name.replace("_", " "), "model": model, "right": f"{len(hit)} of {len(keys)}"}
                | {"lost since before": "; ".join(lost)}
            )
    return pd.DataFrame(rows)


def _names(text: str) -> set[str]:
    """Its words with a capital, but those that only begin a sentence."""
    return set(re.findall(r"\b[A-Z][a-zà-ÿ]+", text)) - {"The", "You", "It"}


def _opening(text: str) -> str:
    """A model that repeats itself fills any table; its first words tell that it does."""
    return textwrap.shorten(text, 110, placeholder=" …")
