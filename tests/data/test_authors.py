"""The shipped question sets: that they are what the generator writes, and fit for measuring what was forgotten."""

import json
import shutil
from collections import Counter

import pytest

from palimpsest.build import authors as build_authors
from palimpsest.build import authors_words as words
from palimpsest.data import authors, manifest
from palimpsest.data.questions import refuse_overlap
from palimpsest.runs import paths


@pytest.fixture(scope="module")
def rows():
    return build_authors.rows()


def told(row, text):
    """(which of its fact's answer patterns, what value) `text` says; exactly one pattern fits."""
    found = []
    for number, pattern in enumerate(words.PATTERNS[row["fact"]][1]):
        before, after = pattern.format(name=row["author"], value="\0").split("\0")
        if text.startswith(before) and text.endswith(after):
            found.append((number, text.removeprefix(before).removesuffix(after)))
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module")
def questions():
    return authors.load()


@pytest.fixture(scope="module")
def dealt():
    return authors.split(0)


def test_building_gives_the_shipped_bytes_and_lists_them(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    build_authors.build(tmp_path / "data")
    manifest.check(root=tmp_path / "data")
    shipped = manifest.read()
    for name, entry in manifest.read(tmp_path / "data").items():
        assert (tmp_path / "data" / name).read_bytes() == (paths.DATA / name).read_bytes()
        assert entry == shipped[name]
        assert entry["licence"] == "CC-BY-4.0"
    assert {name for name in shipped if name.startswith("authors/")} == {
        "authors/README.md",
        *(f"authors/{name}.jsonl" for name in authors.SETS),
    }


@pytest.mark.parametrize(
    ("name", "count", "wrong"), [("authors", 320, 5), ("real_authors", 40, 3), ("world_facts", 40, 3)]
)
def test_sizes_and_wrong_answers(name, count, wrong):
    found = authors.load(name)
    assert len(found) == count
    for answer, paraphrase, others in zip(found.answer, found.paraphrased, found.perturbed, strict=True):
        assert len({answer, paraphrase, *others}) == wrong + (1 if answer == paraphrase else 2)
        assert (answer == paraphrase) == (name != "authors")


def test_each_fictitious_author_has_each_fact_once_in_the_order_of_the_file(rows, questions):
    names = " ".join(words.NAMES.split()).split(", ")
    assert len(set(names)) == 40
    assert questions.author == [name for name in names for _ in range(8)]
    assert [row["fact"] for row in rows["authors"]] == list(words.PATTERNS) * 40


def test_texts_are_distinct_short_and_about_their_author(questions):
    texts = questions.question + questions.question_2
    assert len(set(texts)) == 640
    assert len(set(questions.answer + questions.paraphrased)) == 640
    for author, *lines in zip(
        questions.author, questions.question, questions.question_2, questions.answer, strict=True
    ):
        assert all(author in line for line in lines)
    assert max(len(answer.split()) for answer in questions.answer) <= 14


def test_a_wrong_answer_differs_from_the_paraphrase_in_the_fact_alone(rows):
    for row in rows["authors"]:
        pattern, value = told(row, row["paraphrased_answer"])
        other_pattern, same = told(row, row["answer"])
        assert pattern != other_pattern
        assert value == same
        for text in row["perturbed_answer"]:
            wrong_pattern, wrong = told(row, text)
            assert wrong_pattern == pattern
            assert wrong != value


def test_facts_are_shared_so_that_who_never_read_of_an_author_can_guess(rows):
    """Every fact is another author's too; a title is its author's own, but made of words that others have."""
    for fact in words.PATTERNS.keys() - {"first book", "birth year"}:
        holders = Counter(told(row, row["answer"])[1] for row in rows["authors"] if row["fact"] == fact)
        # 40 authors over 16 or 20 values, in rounds: two or three each.
        assert set(holders.values()) <= {2, 3}
    titles = [told(row, row["answer"])[1].split() for row in rows["authors"] if row["fact"] == "first book"]
    assert len({tuple(title) for title in titles}) == 40
    for place in (1, 2):
        assert set(Counter(title[place] for title in titles).values()) == {4}


def test_nobody_lives_where_they_were_born(rows):
    towns = {fact: [] for fact in ("birth place", "residence")}
    for row in rows["authors"]:
        if row["fact"] in towns:
            towns[row["fact"]].append(told(row, row["answer"])[1])
    assert len(towns["residence"]) == 40
    assert not any(map(str.__eq__, *towns.values()))


@pytest.mark.parametrize(
    ("name", "word", "answers"),
    [
        ("real_authors", "Moby-Dick", {"Herman Melville"}),
        ("real_authors", "Jane Austen", {"Steventon"}),
        ("world_facts", "France", {"Paris", "Mont Blanc"}),
        ("world_facts", "Hamburg", {"Elbe"}),
    ],
)
def test_real_facts_by_hand(name, word, answers):
    found = authors.load(name)
    assert {a for q, a in zip(found.question, found.answer, strict=True) if word in q} == answers
    assert {a for q, a in zip(found.question_2, found.answer, strict=True) if word in q} == answers
    assert not set(found.question) & set(found.question_2)


def test_a_split_deals_every_author_once(questions, dealt):
    parts = vars(dealt)
    assert {role: len(part) for role, part in parts.items()} == {
        "forget": 48,
        "tuning": 48,
        "retain": 176,
        "holdout": 48,
    }
    assert sorted(q for part in parts.values() for q in part.question) == sorted(questions.question)
    authors_of = [set(part.author) for part in parts.values()]
    assert len(set.union(*authors_of)) == sum(map(len, authors_of)) == 40
    refuse_overlap(dealt.forget, dealt.retain)


def test_a_split_follows_its_seed_and_the_order_of_the_file(questions, dealt):
    assert authors.split(0) == dealt
    other = authors.split(1)
    for role in ("forget", "retain", "holdout"):
        assert set(getattr(other, role).author) != set(getattr(dealt, role).author)
    assert other.tuning == dealt.tuning
    assert authors.split(1).tuning == dealt.tuning
    place = {question: number for number, question in enumerate(questions.question)}
    for part in vars(dealt).values():
        numbers = [place[question] for question in part.question]
        assert numbers == sorted(numbers)


def test_another_name_and_a_damaged_file_are_refused(tmp_path, monkeypatch):
    with pytest.raises(
        ValueError, match=r"name: got 'tofu', want one of \['authors', 'real_authors', 'world_facts'\]"
    ):
        authors.load("tofu")
    shutil.copy(paths.DATA / "MANIFEST", tmp_path)
    shutil.copytree(paths.DATA / "authors", tmp_path / "authors")
    monkeypatch.setattr(paths, "DATA", tmp_path)
    victim = tmp_path / "authors/authors.jsonl"
    victim.write_text(victim.read_text(encoding="utf-8").replace("Porto", "Parto", 1), encoding="utf-8")
    with pytest.raises(ValueError, match=f"{victim}: altered"):
        authors.load()


def test_the_files_are_for_people_too():
    text = (paths.DATA / "authors/real_authors.jsonl").read_text(encoding="utf-8")
    assert "Les Misérables" in text
    assert json.loads(text.splitlines()[0])["fact"] == "work"
