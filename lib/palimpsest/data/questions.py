"""Questions with answers, as lists of strings: what the language chapters learn, forget and are examined on.

The files are JSON lines in the schema of TOFU (Maini et al. 2024, arXiv 2401.06121): `question` and `answer`, and
for examinations `paraphrased_question`, `paraphrased_answer` and `perturbed_answer`, a list of wrong answers.
"""

import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Questions:
    """N questions: `question_2` asks the same in other words, `answer` is what a model is trained on.

    `paraphrased` says the answer in other words, `perturbed` [N, m] holds m wrong answers each, in the words of
    `paraphrased`; m is 0 where a file has none. `author` is whom a question is about, "" where a file does not say.
    Raises ValueError when the lists differ in length.
    """

    question: list[str]
    question_2: list[str]
    answer: list[str]
    paraphrased: list[str]
    perturbed: list[list[str]]
    author: list[str]

    def __post_init__(self):
        lengths = {name: len(column) for name, column in vars(self).items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"Questions: got columns of lengths {lengths}, want equal ones")

    def __len__(self) -> int:
        return len(self.question)

    def __add__(self, other: "Questions") -> "Questions":
        return Questions(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def subset(self, indices: Iterable[int]) -> "Questions":
        """The questions at `indices`, in their order. Raises ValueError for an index outside 0 ... N - 1."""
        indices = [int(index) for index in indices]
        outside = [index for index in indices if not 0 <= index < len(self)]
        if outside:
            raise ValueError(f"indices: got {outside[0]}, want 0 ... {len(self) - 1}")
        return Questions(**{f.name: [getattr(self, f.name)[i] for i in indices] for f in fields(self)})


def read_jsonl(path: str | Path) -> Questions:
    """Read one file; blank lines are skipped, fields that are not in the schema are not read.

    `question` and `answer` are required. Without `paraphrased_question` the second form is the question itself;
    without `paraphrased_answer`, `paraphrased` is the answer itself, as TOFU's own evaluation has it for its sets
    of real authors and world facts. Raises ValueError naming the file, and the line, counted from 1, that does not
    parse, lacks a field, holds an empty text, or has another number of wrong answers than the first.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: missing; want a file of JSON lines")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(_row(line))
            if len(rows[-1]["perturbed"]) != len(rows[0]["perturbed"]):
                found, wanted = len(rows[-1]["perturbed"]), len(rows[0]["perturbed"])
                raise ValueError(f"perturbed_answer: got {found} answers, want {wanted} as in the first row")
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    if not rows:
        raise ValueError(f"{path}: got no rows, want at least one")
    return Questions(**{f.name: [row[f.name] for row in rows] for f in fields(Questions)})


def refuse_overlap(first: Questions, second: Questions, names: tuple[str, str] = ("forget", "retain")) -> None:
    """Raise ValueError when a question, in either form, is in both sets; case, spacing
    and how Unicode composes a letter do not tell two apart."""
    known = {_bare(text) for text in second.question + second.question_2}
    for number, (question, question_2) in enumerate(zip(first.question, first.question_2, strict=True)):
        if {_bare(question), _bare(question_2)} & known:
            one, other = names
            raise ValueError(
                f"{one} and {other} overlap: question {number} of {one}, {question!r}, is in {other} too"
            )


def _bare(text):
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _row(line):
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"got a {type(row).__name__}, want an object with question and answer")
    question, answer = _text(row, "question"), _text(row, "answer")
    wrong = row.get("perturbed_answer", [])
    if not isinstance(wrong, list) or not all(isinstance(text, str) and text.strip() for text in wrong):
        raise ValueError(f"perturbed_answer: got {wrong!r}, want a list of texts that are not empty")
    for text in wrong:
        _require_encodable("perturbed_answer", text)
    return {
        "question": question,
        "question_2": _text(row, "paraphrased_question", question),
        "answer": answer,
        "paraphrased": _text(row, "paraphrased_answer", answer),
        "perturbed": wrong,
        "author": _text(row, "author") if "author" in row else "",
    }


def _text(row, field, otherwise=None):
    value = row.get(field, otherwise)
    if value is None:
        raise ValueError(f"{field}: missing")
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{field}: got {value!r}, want a text that is not empty")
    _require_encodable(field, value)
    return value


def _require_encodable(field, text):
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON may escape half of a character
        raise ValueError(f"{field}: got {text!r}, want text without lone surrogates") from error
