"""Write the shipped question sets of `data/authors`: `python -m palimpsest.build.authors`.

The schema is TOFU's (Maini et al. 2024, arXiv 2401.06121); the words are ours, in `authors_words`. Like there, the
wrong answers about fictitious authors take the words of the paraphrased answer, and real authors and world facts are
asked with short answers, three wrong ones each, and no paraphrase.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
import typer

from palimpsest.build import authors_words as words
from palimpsest.data import manifest
from palimpsest.data.authors import FOLDER
from palimpsest.runs import paths
from palimpsest.runs.files import write_atomic

SEED = 2602_00577
"""The paper's arXiv number."""
WRONG = {"authors": 5, "real_authors": 3, "world_facts": 3}
"""Wrong answers a question, as in TOFU."""
MADE_BY = "python -m palimpsest.build.authors"
REAL = {
    "real_authors": {"work": words.WORKS, "birth place": words.BIRTHPLACES},
    "world_facts": {"capital": words.CAPITALS, "river": words.RIVERS, "mountain": words.MOUNTAINS},
}


def rows() -> dict[str, list[dict]]:
    """The rows of each set, in the order of the file; a function of `authors_words` only."""
    generator = torch.Generator().manual_seed(SEED)
    return {"authors": list(_fictitious(generator))} | {name: list(_real(name, generator)) for name in REAL}


def build(root: Path) -> None:
    """Write the sets under `root` and list them in its manifest."""
    files = {}
    for name, content in rows().items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        files[root / FOLDER / f"{name}.jsonl"] = text
    for file, text in files.items():
        write_atomic(file, lambda temporary, text=text: Path(temporary).write_text(text, encoding="utf-8"))
    manifest.update(files, made_by=MADE_BY, root=root)


def _fictitious(generator) -> Iterator[dict]:
    names = _listed(words.NAMES)
    pools = {
        "birth place": _listed(words.TOWNS),
        "birth year": [str(year) for year in words.YEARS],
        "father's trade": _listed(words.TRADES),
        "genre": _listed(words.GENRES),
        "first book": _titles(),
        "prize": _listed(words.PRIZES),
        "teacher": _listed(words.TEACHERS),
        "residence": _listed(words.TOWNS),
    }
    values = {fact: _dealt(pool[: len(names)], len(names), generator) for fact, pool in pools.items()}
    # Nobody lives where they were born: the second draw is turned by one until that holds.
    while any(map(str.__eq__, values["birth place"], values["residence"])):
        values["residence"] = values["residence"][1:] + values["residence"][:1]
    for number, name in enumerate(names):
        for fact, (questions, answers) in words.PATTERNS.items():
            value = values[fact][number]
            asked, said = _drawn(questions, 2, generator), _drawn(answers, 2, generator)
            others = _drawn([other for other in pools[fact] if other != value], WRONG["authors"], generator)
            yield {
                "author": name,
                "fact": fact,
                "question": asked[0].format(name=name),
                "paraphrased_question": asked[1].format(name=name),
                "answer": said[0].format(name=name, value=value),
                "paraphrased_answer": said[1].format(name=name, value=value),
                "perturbed_answer": [said[1].format(name=name, value=other) for other in others],
            }


def _real(name, generator) -> Iterator[dict]:
    for fact, pairs in REAL[name].items():
        known = dict(pair.split(": ") for pair in _listed(pairs))
        for about, value in known.items():
            asked = _drawn(words.REAL_PATTERNS[fact], 2, generator)
            yield {
                "fact": fact,
                "question": asked[0].format(name=about),
                "paraphrased_question": asked[1].format(name=about),
                "answer": value,
                "perturbed_answer": _drawn([v for v in known.values() if v != value], WRONG[name], generator),
            }


def _titles():
    """All titles, so ordered that the first 40 hold each word four times."""
    number = len(words.OBJECTS)
    return [
        f"The {title} {words.OBJECTS[(place + shift) % number]}"
        for shift in range(number)
        for place, title in enumerate(words.TITLES)
    ]


def _listed(text):
    return " ".join(text.split()).split(", ")


def _drawn(pool, count, generator):
    """`count` of `pool`, no two the same."""
    return [pool[index] for index in torch.randperm(len(pool), generator=generator)[:count].tolist()]


def _dealt(pool, count, generator):
    """`count` values, each of `pool` about as often as any other."""
    rounds = -(-count // len(pool))
    return [value for _ in range(rounds) for value in _drawn(pool, len(pool), generator)][:count]


def main():
    build(paths.DATA)


if __name__ == "__main__":
    typer.run(main)
