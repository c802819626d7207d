"""The five papers, in reading order: what of each could be read, and which of its claims the rest serves. And the
chapter on their neighbours, which is of no single paper.

Titles, authors and years stand in `CITATION.cff` and `book/references.bib`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Chapter:
    """A chapter with claims. `main` is the claim that it is written for; `read` the short form of what could be
    read."""

    name: str
    chapter: str
    main: str
    read: str


@dataclass(frozen=True)
class Paper(Chapter):
    """One paper and its chapter. `main` is chosen by its abstract and not by what was found here; `unread` says in
    words what of it was not read."""

    arxiv: str
    unread: str


PAPERS = {
    "sau": Paper(
        "SAU",
        "01_sau",
        "sau-best",
        "abstract and one caption",
        "2602.00577",
        "the paper beyond its abstract and one caption; no code is released",
    ),
    "oeu": Paper(
        "OEU",
        "02_oeu",
        "oeu-better",
        "abstract only",
        "2602.00567",
        "the paper beyond its abstract; no code is released",
    ),
    "qmul": Paper(
        "Q-MUL",
        "03_qmul",
        "qmul-best",
        "abstract and released code",
        "2503.13917",
        "the paper beyond its abstract, its tables among it; the released code was read",
    ),
    "jscds": Paper(
        "JSCDS",
        "04_jscds",
        "jscds-half",
        "abstract and a successor's code",
        "2407.00362",
        "the paper beyond its abstract, and its photographs, which are clinical; a successor's code was read",
    ),
    "sage": Paper(
        "SAGE",
        "05_sage",
        "sage-faster",
        "whole paper",
        "2602.00523",
        "its code, which is not released; the paper was read as a whole",
    ),
}
"""By the stem of a paper's files in `data/`."""
CHAPTERS: dict[str, Chapter] = PAPERS | {
    "neighbours": Chapter("Neighbours", "06_neighbours", "neighbours-choice", "abstracts, and code where released")
}
"""The same with the neighbours', by the stem of their files."""
