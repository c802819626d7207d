"""ROUGE-L recall: values published with TOFU, and cases counted by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from palimpsest.metrics.generation import rouge_l_recall

PUBLISHED = json.loads((Path(__file__).parents[1] / "data" / "tofu_logs.json").read_text(encoding="utf-8"))


def test_published_recalls():
    log = PUBLISHED["retain99/eval_log_forget"]
    generated, references = zip(*log["generated_and_ground_truth"], strict=True)
    # Quotients of small integers: the same double.
    assert rouge_l_recall(references, generated).tolist() == log["rougeL_recall"]
    row = PUBLISHED["leaderboard"]["llama-1p: Retain Model"]
    assert np.mean(log["rougeL_recall"]) == pytest.approx(row["ROUGE Forget"], rel=1e-14)


def test_by_hand():
    reference = "the black cat sat down"
    texts = ["the cat sat", "sat cat the", "", "the black cat sat down and slept", "THE--cats, sitting!"]
    # "the cat sat" is a subsequence of length 3; of the reversed words one is; more words cost nothing; "cats" has
    # the stem of "cat", "sitting" that of "sit", which is not "sat".
    assert rouge_l_recall([reference] * 5, texts).tolist() == [3 / 5, 1 / 5, 0, 1, 2 / 5]
    # Recall is of the reference: the other way round all three words are there.
    assert rouge_l_recall(["the cat sat"], [reference]).tolist() == [1]


@pytest.mark.parametrize(
    ("references", "generated", "message"),
    [
        (["a"], [], "generated: got 0 texts, want one for each of 1 references"),
        ([], [], "generated: got 0 texts"),
        (["a", "—"], ["a", "b"], "references: got '—' in row 1, want a text with a letter a-z or a digit"),
    ],
)
def test_refuses(references, generated, message):
    with pytest.raises(ValueError, match=message):
        rouge_l_recall(references, generated)
