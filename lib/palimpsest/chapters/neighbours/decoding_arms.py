"""The arms beside SAGE: what is decoded, what is replayed along the target's texts, and what is not lossless."""

from dataclasses import dataclass

from palimpsest import decoding, runs
from palimpsest.chapters.sage import experiment as sage
from palimpsest.chapters.sage.arms import DEPTH, NODES
from palimpsest.chapters.sage.cost import recorded
from palimpsest.chapters.sage.profiles import PROFILES as CHAPTER
from palimpsest.chapters.sage.requests import CANDIDATES, pictures
from palimpsest.data import captions, pairs
from palimpsest.decoding.neighbours import DRAFTERS, LOSSY, POLICIES
from palimpsest.decoding.replay import follow, replay


@dataclass(frozen=True)
class Setting:
    """Chapter 5's `seeds`, so many of them. Of each, the first `decoded` requests where a drafter learns, `single`
    where it does not, `followed` where it is replayed; at the `threshold`, in bits, two models take turns; at the
    `speed_up` the target drafts for itself."""

    seeds: int
    decoded: int
    single: int
    followed: int
    threshold: float
    speed_up: float


PROFILES = {
    "smoke": Setting(2, decoded=1, single=1, followed=1, threshold=1.0, speed_up=2.0),
    "ci": Setting(10, decoded=2, single=1, followed=6, threshold=1.0, speed_up=2.0),
}

BUDGET = {"nodes": NODES, "depth": DEPTH}
ARMS: dict[str, dict] = {
    "recycling, ADED's tree": {"drafter": "recycling", "policy": "aded", "learns": True},
    "trigrams, ADED's tree": {"drafter": "trigrams", "policy": "aded", "learns": True},
    "superposed, SAGE": {"drafter": "superposed", "policy": "sage", "learns": False},
}
"""What is decoded. "recycling" knows one token before and "trigrams" two; all else is alike. Superposed drafts are
taken without the paper's n-grams, which a text as short as these cannot fill."""


def decode(profile: str, seed: int, count: int, drafter: str, policy: str) -> list[dict]:
    """One row per request: what chapter 5 counts, and whether the text is the target's own ("same")."""
    target, model = (CHAPTER[profile].family.decoder(name) for name in ("target", "drafter"))
    makers = {
        "recycling": decoding.TokenRecycling,
        "trigrams": DRAFTERS["trigrams"],
        "superposed": lambda: DRAFTERS["superposed"](model, 0.0),
    }
    shaped = POLICIES[policy](**BUDGET) if policy in POLICIES else decoding.policies[policy]()
    asked = CHAPTER[profile].inputs("evaluation", seed, "target", count)
    most = CHAPTER[profile].most
    answers = decoding.generate_batch(
        target, makers[drafter](), asked, policy=shaped, max_new_tokens=most, trace=True
    )
    by_model = drafter == "superposed"
    rows = []
    for answer, text in zip(answers, texts(profile, seed)[:count], strict=True):
        drafts = answer.stats.draft_forwards - by_model  # its prefill
        # A superposed level is one row, however many nodes it stands for.
        asked_about = [sum(a is not None for a in one.alphas) for one in answer.stats.trace]
        rows.append(_row(answer.tokens, answer.stats.accepted, answer.stats.tree_sizes, drafts))
        rows[-1] |= {"expanded": [0] * len(asked_about) if by_model else asked_about, "same": answer.tokens == text}
    return rows


def skipped(profile: str, seed: int, count: int, speed_up: float) -> list[dict]:
    """The same of SAGE with the target as its own drafter, some layers left out: replayed along its texts."""
    target, policy = CHAPTER[profile].family.decoder("target"), decoding.policies["sage"]()
    drafter = DRAFTERS["layer skipping"](target.model, speed_up)
    asked, rows = CHAPTER[profile].inputs("evaluation", seed, "target", count), []
    for one, text in zip(asked, texts(profile, seed)[:count], strict=True):
        known = follow(drafter, one, text, CANDIDATES, target.vocabulary)
        rounds = replay(policy, known, CHAPTER[profile].most)
        drafts = sum(max(r.tree.depth, 1) for r in rounds if r.alpha is not None)
        rows.append(_row(text, [r.accepted for r in rounds], [len(r.tree) for r in rounds], drafts))
        rows[-1] |= {"expanded": [len(set(r.tree.parents) - {-1}) for r in rounds], "same": None}
        rows[-1]["agrees"] = sum(rank == 0 for rank in known.ranks) / len(known.ranks)
    return rows


def switched(profile: str, seed: int, count: int, threshold: float) -> list[dict]:
    """One row per request of two models that take turns: the share of tokens by the "large" one, "cost" per token in
    the target's forwards, whether the text is the target's ("same") and for how many tokens ("until"), and the share
    of its statements that is "true", beside that of the target's own text."""
    family, place = CHAPTER[profile].family, CHAPTER[profile].seeds.index(seed)
    small, large = (family.decoder(name) for name in ("drafter", "target"))
    shown = pictures("evaluation", place, CHAPTER[profile].requests)
    asked, costs = CHAPTER[profile].inputs("evaluation", seed, "target", count), recorded()
    ends = large.model.generation_config.eos_token_id
    rows = []
    for i, (one, text) in enumerate(zip(asked, texts(profile, seed)[:count], strict=True)):
        options = {"max_new_tokens": CHAPTER[profile].most, "threshold": threshold, "stop_tokens": [ends]}
        found = LOSSY["entropy adaptive"](small, large, one, **options)
        spent = sum(
            calls * costs.seconds(name, rows_read / calls)
            for name, calls, rows_read in zip(("drafter", "target"), found.forwards, found.rows, strict=True)
            if calls
        )
        alike = next((k for k, pair in enumerate(zip(found.tokens, text, strict=False)) if pair[0] != pair[1]), None)
        rows.append(
            {
                "large": sum(found.by) / len(found.by),
                "cost": float(spent) / costs.unit / (len(found.tokens) - 1),
                "same": found.tokens == text,
                "until": min(len(found.tokens), len(text)) if alike is None else alike,
                "true": true_levels(found.tokens, shown.images[i : i + 1]),
                "true of target": true_levels(text, shown.images[i : i + 1]),
            }
        )
    return rows


def true_levels(tokens: list[int], image) -> float:
    """Of the attributes that a text tells, the share that is the picture's; NaN where it tells none."""
    told = captions.read(pairs.processor().decode(tokens)).levels
    own = dict(zip(captions.ATTRIBUTES, captions.levels(image)[0].tolist(), strict=True))
    return sum(own[name] == value for name, value in told.items()) / len(told) if told else float("nan")


def texts(profile: str, seed: int) -> list[list[int]]:
    """The target's own, which chapter 5 has."""
    return runs.cached(sage.plain, {"profile": profile, "group": "evaluation", "seed": seed, "target": "target"})


def _row(tokens, accepted, sizes, drafts) -> dict:
    return {"length": len(tokens), "accepted": accepted, "sizes": sizes, "draft forwards": drafts}
