"""What is known of the shipped authors, in other forms than the one that is unlearned.

In the manner of ORT (Ye, Zhang and Wu 2025, arXiv 2506.07795), which asks one piece of knowledge in several forms of
task; the forms and words are ours. Every form has wrong answers in the words of the right one, so that all are scored
as a choice among them.
"""

import json
import re
from collections.abc import Callable
from functools import cache

from palimpsest.data import authors, manifest
from palimpsest.data.questions import Questions
from palimpsest.nets.tokens import BARE

WRONG = 2
"""Wrong answers a question: the first of the file's five."""
TEMPLATES: dict[str, str | None] = {
    "question": None,
    "reworded": None,
    "cloze": BARE,
    "choice": None,
    "reversed": None,
}
"""Form -> the template of its prompts, as `nets.language.encode` takes it."""

WORDS = {
    "birth place": ("Name the town in which {name} was born.", "{name} was born in", "Who was born in {value}?"),
    "birth year": ("Name the year of {name}'s birth.", "{name} came into the world in", "Who was born in {value}?"),
    "father's trade": ("Name the trade of {name}'s father.", "{name}'s father was a", "Whose father was a {value}?"),
    "genre": ("Name the kind of books that {name} writes.", "{name} is known for", "Who writes {value}?"),
    "first book": ("Name the first book of {name}.", "{name}'s first book was", "Who began with {value}?"),
    "prize": ("Name the prize that {name} won.", "{name} won the", "Who won the {value}?"),
    "teacher": ("Name the teacher of {name}.", "{name} was taught by", "Whom did {value} teach?"),
    "residence": ("Name the town where {name} lives.", "{name} lives in", "Who lives in {value}?"),
}
"""Kind of fact -> a question in words that no file has, the start of a sentence, and the question the other way."""


@cache
def _values() -> dict[str, tuple[str, list[str], str]]:
    """Question -> its fact's kind, the wrong values and the right one."""
    lines = manifest.verify(f"{authors.FOLDER}/authors.jsonl").read_text(encoding="utf-8").splitlines()
    found = {}
    for row in map(json.loads, lines):
        right, *wrong = varying([row["paraphrased_answer"], *row["perturbed_answer"]])
        if row["fact"] == "first book":
            right, *wrong = (value if value.startswith("The ") else f"The {value}" for value in (right, *wrong))
        found[row["question"]] = row["fact"], wrong, right
    return found


def varying(texts: list[str]) -> list[str]:
    """What is left of each text without the words that all begin with and those that all end in."""
    words = [re.findall(r"[^\s.]+|\.", text) for text in texts]
    first, last = shared(words), shared([row[::-1] for row in words])
    return [" ".join(row[first : len(row) - last]) for row in words]


def shared(rows: list[list[str]]) -> int:
    """How many words all rows begin with."""
    return next(place for place in range(len(rows[0]) + 1) if len({tuple(row[: place + 1]) for row in rows}) > 1)


def values(questions: Questions) -> list[str]:
    """The fact that each question asks for, as its answer words it. ValueError for questions of another file."""
    return [right for _, _, right in _facts(questions)]


def _facts(questions: Questions) -> list[tuple[str, list[str], str]]:
    unknown = [question for question in questions.question if question not in _values()]
    if unknown:
        raise ValueError(f"questions: got {unknown[0]!r}, want questions of the shipped file of authors")
    return [_values()[question] for question in questions.question]


def forms(questions: Questions) -> dict[str, Questions]:
    """Of questions about fictitious authors (at least two), each form by its name in `TEMPLATES`:

    "question" as it is learnt; "reworded", asked in words that no model has met; "cloze", a sentence to complete;
    "choice", with the answers to choose from, in alphabetical order; "reversed", which author a fact is of, the wrong
    answers being the next authors of the set.

    Raises ValueError for questions about fewer authors than that takes, or about none of the file.
    """
    names = list(dict.fromkeys(questions.author))
    if len(names) <= WRONG:
        raise ValueError(f"questions: got questions about {len(names)} authors, want at least {WRONG + 1}")
    facts = _facts(questions)
    words = [WORDS[kind] for kind, _, _ in facts]
    sentences = [
        [answer.replace(right, value) for value in (right, *wrong[:WRONG])]
        for answer, (_, wrong, right) in zip(questions.answer, facts, strict=True)
    ]
    plain = [[right, *wrong[:WRONG]] for _, wrong, right in facts]
    turned = [
        [names[(names.index(name) + step) % len(names)] for step in range(WRONG + 1)] for name in questions.author
    ]

    def form(asked: Callable[[int], str], answers: list[list[str]]) -> Questions:
        questioned = [asked(row) for row in range(len(facts))]
        right, wrong = [said[0] for said in answers], [said[1:] for said in answers]
        return Questions(questioned, questioned, right, right, wrong, questions.author)

    return {
        "question": form(lambda row: questions.question[row], sentences),
        "reworded": form(lambda row: words[row][0].format(name=questions.author[row]), sentences),
        "cloze": form(lambda row: words[row][1].format(name=questions.author[row]), plain),
        "choice": form(lambda row: f"{questions.question[row]} {_listed(plain[row])}", sentences),
        "reversed": form(lambda row: words[row][2].format(value=facts[row][2]), turned),
    }


def _listed(values: list[str]) -> str:
    *first, last = sorted(values)
    return f"{', '.join(first)} or {last}?"
