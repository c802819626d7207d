"""ROUGE-L recall: values published with TOFU, and cases counted by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from palimpsest.metrics.generation import rouge_1_recall, rouge_l_recall

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


def test_published_words_are_those_of_the_released_code_in_any_latin_text():
    from rouge_score.rouge_scorer import RougeScorer

    texts = [
        "Hélène's café, naïve (ﬁne) 5 m² at 3½ K – ‘so’",
        "Re\u0301sume\u0301: Łódź, İzmir; № 7…",
        "H l ne s caf na ve 5 m at 3 k",
    ]
    pairs = [(a, b) for a in texts for b in texts]
    for kind, recall in (("rougeL", rouge_l_recall), ("rouge1", rouge_1_recall)):
        scorer = RougeScorer([kind], use_stemmer=True)
        wanted = [scorer.score(a, b)[kind].recall for a, b in pairs]
        assert recall(*zip(*pairs, strict=True)).tolist() == wanted


@pytest.mark.parametrize(
    ("reference", "text", "recall"),
    [
        ("Она родилась в Москве в 1951 году.", "Он умер здесь около 1951 зимой", 1 / 7),
        ("Она родилась в Москве", "она жила в москве!", 3 / 4),
        ("वह दिल्ली में रहती है", "वह मुंबई में रहती है", 4 / 5),
        ("她住在北京。", "她住在上海", 3 / 5),
        ("서울에 산다", "부산에 산다", 1 / 2),
        ("गया", "गयी", 0),
    ],
)
def test_words_of_other_scripts_count(reference, text, recall):
    assert rouge_l_recall([reference], [text]).tolist() == [recall]


def test_the_order_counts_in_one_of_the_two():
    assert rouge_1_recall(["the cat sat"], ["sat cat the"]).tolist() == [1]
    assert rouge_1_recall(["the the cat"], ["the dog"]).tolist() == [1 / 3]


@pytest.mark.parametrize(
    ("references", "generated", "message"),
    [
        (["a"], [], "generated: got 0 texts, want one for each of 1 references"),
        ([], [], "generated: got 0 texts"),
        (["a", "—"], ["a", "b"], "references: got '—' in row 1, want a text with a letter or a digit"),
    ],
)
def test_refuses(references, generated, message):
    with pytest.raises(ValueError, match=message):
        rouge_l_recall(references, generated)
