"""The shipped question sets: 40 fictitious authors with 8 facts each, real authors, and world facts.

Made by `build_authors`, in the manner of TOFU (Maini et al. 2024, arXiv 2401.06121).
"""

from dataclasses import dataclass

import torch

from . import manifest
from .questions import Questions, read_jsonl

FOLDER = "authors"
SETS = ("authors", "real_authors", "world_facts")
PART = 6
"""Authors to forget, and as many to tune on and to hold out; the rest are retained. Six authors have 48 questions,
and the Kolmogorov–Smirnov test of forget quality has no power under 40."""


@dataclass(frozen=True)
class AuthorSplit:
    """The questions about fictitious authors by role; no author is in two.

    `forget` is unlearnt for the verdict, `tuning` while settings are searched for, `retain` stays, and no model is
    trained on `holdout`. The authors of `tuning` are the same in every split, so that no verdict sees them forgotten.
    """

    forget: Questions
    tuning: Questions
    retain: Questions
    holdout: Questions


def load(name: str = "authors") -> Questions:
    """The set "authors" (320 questions, author after author), "real_authors" (40) or "world_facts" (40).

    Raises ValueError for another name, and when the file is missing, truncated or altered.
    """
    if name not in SETS:
        raise ValueError(f"name: got {name!r}, want one of {list(SETS)}")
    return read_jsonl(manifest.verify(f"{FOLDER}/{name}.jsonl"))


def split(seed: int) -> AuthorSplit:
    """Deal the fictitious authors to the roles, a function of `seed`; each part is in the order of the file."""
    questions = load()
    names = list(dict.fromkeys(questions.author))
    tuning, others = names[:PART], names[PART:]
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed)).tolist()
    shuffled = [others[index] for index in order]

    def about(chosen: list[str]) -> Questions:
        return questions.subset(i for i, author in enumerate(questions.author) if author in set(chosen))

    return AuthorSplit(
        forget=about(shuffled[:PART]),
        tuning=about(tuning),
        retain=about(shuffled[2 * PART :]),
        holdout=about(shuffled[PART : 2 * PART]),
    )
