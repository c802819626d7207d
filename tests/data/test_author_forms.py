"""The facts about the shipped authors in other forms: against the words that the file was made from, and by hand."""

import json

import pytest

from palimpsest.build import authors_words as words
from palimpsest.data import author_forms, authors, manifest


@pytest.fixture(scope="module")
def first():
    """The 24 questions about the first three authors."""
    return authors.load().subset(range(24))


def test_the_value_of_every_fact_fills_a_pattern_of_its_kind():
    rows = map(json.loads, manifest.verify("authors/authors.jsonl").read_text(encoding="utf-8").splitlines())
    for row, value in zip(rows, author_forms.values(authors.load()), strict=True):
        patterns = words.PATTERNS[row["fact"]][1]
        said = {pattern.format(name=row["author"], value=value) for pattern in patterns}
        assert {row["answer"], row["paraphrased_answer"]} <= said


def test_what_varies_in_texts():
    assert author_forms.varying(["A red hat sat.", "A big blue hat sat.", "A tin sat."]) == [
        "red hat",
        "big blue hat",
        "tin",
    ]
    assert author_forms.varying(["In 1946 it was.", "In 1922 it was."]) == ["1946", "1922"]


def test_the_five_forms_of_one_fact(first):
    found = {
        name: (part.question[0], part.answer[0], part.perturbed[0])
        for name, part in author_forms.forms(first).items()
    }
    names = list(dict.fromkeys(first.author))
    assert names[0] == "Ilse Quarnby"
    right, wrong = (
        "Ilse Quarnby was born in Mombasa.",
        ["Ilse Quarnby was born in Cusco.", "Ilse Quarnby was born in Kyoto."],
    )
    asked = "What town does Ilse Quarnby come from?"
    assert found == {
        "question": (asked, right, wrong),
        "reworded": ("Name the town in which Ilse Quarnby was born.", right, wrong),
        "cloze": ("Ilse Quarnby was born in", "Mombasa", ["Cusco", "Kyoto"]),
        "choice": (f"{asked} Cusco, Kyoto or Mombasa?", right, wrong),
        "reversed": ("Who was born in Mombasa?", "Ilse Quarnby", names[1:3]),
    }
    assert found.keys() == author_forms.TEMPLATES.keys()


def test_no_reworded_question_is_one_of_the_file(first):
    learnt = {*authors.load().question, *authors.load().question_2}
    assert not learnt & set(author_forms.forms(first)["reworded"].question)


def test_questions_of_too_few_authors_or_of_another_file_are_refused(first):
    with pytest.raises(ValueError, match="questions about 2 authors, want at least 3"):
        author_forms.forms(first.subset(range(16)))
    with pytest.raises(ValueError, match="want questions of the shipped file"):
        author_forms.values(authors.load("world_facts"))
