"""TOFU: 4,000 questions about 200 fictitious authors (Maini et al. 2024, arXiv 2401.06121; MIT licence).

From a mirror in the hub's layout, or from the hub: repository `locuslab/TOFU`, one file of JSON lines a split.
"""

from . import hub
from .questions import Questions, read_jsonl

REPOSITORY = "locuslab/TOFU"
TRAINED = ("full", "forget01", "forget05", "forget10", "retain90", "retain95", "retain99")
"""Splits with an answer only. forget01 and retain99 together are `full`, and so on."""
EXAMINED = (
    "forget01_perturbed",
    "forget05_perturbed",
    "forget10_perturbed",
    "retain_perturbed",
    "real_authors_perturbed",
    "world_facts_perturbed",
)
"""Splits with wrong answers: five, with a paraphrase of question and answer; three, without, for the real ones."""


def load(split: str) -> Questions:
    """The questions of one split, in the order of its file.

    Raises ValueError for another name, when no way to the file is open, and naming the file and line that is faulty.
    """
    if split not in TRAINED + EXAMINED:
        raise ValueError(f"split: got {split!r}, want one of {sorted(TRAINED + EXAMINED)}")
    return read_jsonl(hub.file(REPOSITORY, f"{split}.json"))
