"""Questions as lists, and the reader of JSON lines: what it takes, and what it refuses by file and line."""

import json

import pytest

from palimpsest.data.questions import Questions, read_jsonl, refuse_overlap

ROW = {
    "question": "Where was Ada Holt born?",
    "paraphrased_question": "What is Ada Holt's birthplace?",
    "answer": "Ada Holt was born in Porto.",
    "paraphrased_answer": "Ada Holt comes from Porto.",
    "perturbed_answer": ["Ada Holt comes from Ghent.", "Ada Holt comes from Cebu."],
    "author": "Ada Holt",
}


def write(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "q.jsonl"


def asked(*questions, second=None):
    blank = [""] * len(questions)
    second = list(second or questions)
    return Questions(list(questions), second, ["a"] * len(questions), blank, [[] for _ in questions], blank)


def test_every_field_is_read_into_its_place(file):
    read = read_jsonl(write(file, ROW, {**ROW, "question": "Et où ?", "fact": "not in the schema"}))
    assert read == Questions(
        question=["Where was Ada Holt born?", "Et où ?"],
        question_2=["What is Ada Holt's birthplace?"] * 2,
        answer=["Ada Holt was born in Porto."] * 2,
        paraphrased=["Ada Holt comes from Porto."] * 2,
        perturbed=[["Ada Holt comes from Ghent.", "Ada Holt comes from Cebu."]] * 2,
        author=["Ada Holt"] * 2,
    )


def test_question_and_answer_suffice_and_blank_lines_do_not_count(file):
    read = read_jsonl(write(file, {"question": "Who?", "answer": "Me\u2028too."}, "  ", ""))
    assert read == Questions(["Who?"], ["Who?"], ["Me\u2028too."], ["Me\u2028too."], [[]], [""])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"question": "Who?", "answer": ', "not JSON"),
        ("[1, 2]", "got a list, want an object"),
        ({"question": "Who?"}, "answer: missing"),
        ({"answer": "Me."}, "question: missing"),
        ({"question": "Who?", "answer": None}, "answer: missing"),
        ({"question": "Who?", "answer": " \n"}, r"answer: got ' \\n', want a text that is not empty"),
        ({"question": "", "answer": "Me."}, "question: got ''"),
        ({"question": "Who?", "answer": 3}, "answer: got 3"),
        ({**ROW, "paraphrased_question": ""}, "paraphrased_question: got ''"),
        ({**ROW, "paraphrased_answer": []}, r"paraphrased_answer: got \[\]"),
        ({**ROW, "author": ""}, "author: got ''"),
        ({**ROW, "perturbed_answer": "no"}, "perturbed_answer: got 'no', want a list"),
        ({**ROW, "perturbed_answer": ["a", " "]}, "perturbed_answer: got .* want a list of texts that are not empty"),
        ({**ROW, "perturbed_answer": ["a"]}, "perturbed_answer: got 1 answers, want 2 as in the first row"),
    ],
)
def test_a_faulty_line_is_named(file, row, message):
    write(file, ROW, "", row, ROW)
    with pytest.raises(ValueError, match=f"{file}, line 3: {message}"):
        read_jsonl(file)


def test_a_missing_empty_or_binary_file_is_named(file):
    with pytest.raises(ValueError, match=f"{file}: missing"):
        read_jsonl(file)
    write(file, "", " ")
    with pytest.raises(ValueError, match=f"{file}: got no rows"):
        read_jsonl(file)
    file.write_bytes(b'{"question": "\xff"}')
    with pytest.raises(ValueError, match=f"{file}: not UTF-8"):
        read_jsonl(file)


def test_subset_keeps_the_order_asked_for_and_sums_append():
    three = asked("a", "b", "c", second=["x", "y", "z"])
    part = three.subset([2, 0])
    assert (part.question, part.question_2, len(part)) == (["c", "a"], ["z", "x"], 2)
    assert (part + three).question == ["c", "a", "a", "b", "c"]
    assert len(three) == 3
    for index in (3, -1):
        with pytest.raises(ValueError, match=f"indices: got {index}, want 0 ... 2"):
            three.subset([0, index])


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match=r"got columns of lengths .*'answer': 0"):
        Questions(["a"], ["a"], [], ["a"], [[]], [""])


@pytest.mark.parametrize(
    ("forget", "retain"),
    [
        (asked("a", "Who is Bo?"), asked("who  is BO?\n")),
        (asked("a", "b", second=["a", "c"]), asked("c")),
        (asked("a", "c"), asked("d", second=["c"])),
        (asked("a", "b", second=["a", "c"]), asked("d", second=["c"])),
    ],
)
def test_a_question_in_both_sets_is_refused_in_either_form(forget, retain):
    with pytest.raises(ValueError, match=r"forget and retain overlap: question 1 of forget"):
        refuse_overlap(forget, retain)


def test_sets_without_a_common_question_pass():
    refuse_overlap(asked("a", second=["b"]), asked("c", "ab", second=["d", "b a"]))


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    path = tmp_path / "marked.jsonl"
    path.write_text(json.dumps({"question": "Who?", "answer": "Me."}) + "\n", encoding="utf-8-sig")
    assert read_jsonl(path).question == ["Who?"]


@pytest.mark.parametrize("field", ["question", "answer", "perturbed_answer"])
def test_half_a_character_is_refused_by_line(tmp_path, field):
    row = {"question": "Who?", "answer": "Me.", "perturbed_answer": ["You."]}
    row[field] = ["You\ud83d"] if field == "perturbed_answer" else "Me\ud83d"
    path = tmp_path / "half.jsonl"
    path.write_text(json.dumps(row), encoding="ascii")
    with pytest.raises(ValueError, match=f"half.jsonl, line 1: {field}: got .*want text without lone surrogates"):
        read_jsonl(path)
