"""The five papers, in reading order: what of each could be read, and which of its claims the rest serves.

Titles, authors and years stand in `CITATION.cff` and `book/references.bib`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """One paper and its chapter. `main` is the claim that the paper is written for, chosen by its abstract and not by
    what was found here. `read` is the short form of what could be read, `unread` the rest in words."""

    name: str
    arxiv: str
    chapter: str
    main: str
    read: str
    unread: str


PAPERS = {
    "sau": Paper(
        "SAU",
        "2602.00577",
        "01_sau",
        "sau-best",
        "abstract and one caption",
        "the paper beyond its abstract and one caption; no code is released",
    ),
    "oeu": Paper(
        "OEU",
        "2602.00567",
        "02_oeu",
        "oeu-better",
        "abstract only",
        "the paper beyond its abstract; no code is released",
    ),
    "qmul": Paper(
        "Q-MUL",
        "2503.13917",
        "03_qmul",
        "qmul-best",
        "abstract and released code",
        "the paper beyond its abstract, its tables among it; the released code was read",
    ),
    "jscds": Paper(
        "JSCDS",
        "2407.00362",
        "04_jscds",
        "jscds-half",
        "abstract and a successor's code",
        "the paper beyond its abstract, and its photographs, which are clinical; a successor's code was read",
    ),
    "sage": Paper(
        "SAGE",
        "2602.00523",
        "05_sage",
        "sage-faster",
        "whole paper",
        "its code, which is not released; the paper was read as a whole",
    ),
}
"""By the stem of a paper's files in `data/`."""
