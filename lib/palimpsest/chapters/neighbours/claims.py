"""What the neighbours say, judged: the claims of `data/claims/neighbours.yaml`, part by part, each with the size that
it is judged at."""

import pandas as pd

from palimpsest import findings, ledger
from palimpsest.chapters.neighbours import decoding_claims, language_claims, vision_claims
from palimpsest.chapters.neighbours.decoding import Results as Decoded
from palimpsest.chapters.neighbours.language_results import Results as Told
from palimpsest.chapters.neighbours.profiles import LANGUAGE
from palimpsest.chapters.neighbours.vision import Results as Seen
from palimpsest.chapters.neighbours.vision_worlds import PROFILES
from palimpsest.ledger import Judgement, settle

SIZES = language_claims.SIZES | vision_claims.SIZES | decoding_claims.SIZES
"""The size at which each claim is judged, in words."""


def described(profile: str) -> str:
    """The setting that the claims are judged in, in words."""
    return (
        f"language: chapter 1's models on {len(LANGUAGE[profile].seeds)} of its seeds, each arm where it forgets "
        f"most at the bar; vision: chapter 2's networks, and {len(PROFILES[profile].seeds)} worlds of "
        f"{PROFILES[profile].samples} pictures; decoding: chapter 5's pair on some of its pictures"
    )


def judgements(told: Told, seen: Seen, drafted: Decoded) -> dict[str, Judgement]:
    """All, by identifier."""
    return settle(
        [*language_claims.judgements(told), *vision_claims.judgements(seen), *decoding_claims.judgements(drafted)]
    )


def held(judged: dict[str, Judgement]) -> pd.DataFrame:
    """Neighbour, what it says, what held here, the figure that decides it, and at which size."""
    known = ledger.claims()
    return pd.DataFrame(
        {
            "neighbour": known[name].paper,
            "says": known[name].statement,
            "what held here": f"{findings.MARK[judgement.verdict]} {judgement.verdict}",
            "measured": ledger.text(judgement.measured, known[name].unit),
            "at which size": SIZES[name],
        }
        for name, judgement in judged.items()
    )
