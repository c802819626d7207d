"""SmolLM2's long texts: what is read off the recorded rounds, by hand on short ones."""

import numpy as np
import pandas as pd
import pytest

from palimpsest.chapters.sage import long_texts
from palimpsest.chapters.sage.long_texts_study import repeats


def rows(**accepted):
    return pd.DataFrame(
        [{"text": 0, "length": 16, "policy": name, "accepted": np.array(one)} for name, one in accepted.items()]
    )


def test_a_token_repeats_where_the_run_that_it_ends_stood_before():
    assert repeats([1, 2, 3, 1, 2, 3, 1], run=3) == [False, False, False, False, False, True, True]
    assert repeats([5, 5, 5, 5], run=2) == [False, False, True, True]


def test_a_round_belongs_to_the_block_of_its_root(monkeypatch):
    monkeypatch.setattr(long_texts, "BLOCK", 4)
    # Roots at 0, 3, 4, 8: the first block has the rounds of 2 and 0, the second that of 3, the third that of 1.
    guesses = pd.DataFrame({"ranks": [np.array([0, 0, 1, 0, 10, 0, 0, 0])], "repeats": [np.array([0] * 6 + [1, 1])]})
    table = long_texts.by_block(rows(sage=[2, 0, 3, 1]), guesses)
    assert table.index.to_list() == ["0 to 3", "4 to 7", "8 to 11"]
    assert table.sage.to_list() == [1.0, 3.0, 1.0]
    # The first rank is that of token 1.
    assert table["guessed, %"].to_list() == [pytest.approx(200 / 3), 75.0, 100.0]
    assert table["repeated, %"].to_list() == [0.0, 25.0, 100.0]


def test_the_gain_counts_the_round_that_crosses_the_length(monkeypatch):
    monkeypatch.setattr(long_texts, "LENGTHS", (3, 8))
    # After its rounds: 3, 6, 9 tokens against 2, 5, 6, 9.
    table = long_texts.gains(rows(sage=[1, 2, 2], specvlm=[0, 2, 0, 2]))
    assert table[3].to_list() == [0.0]  # the first round gives just 3; the rival needs two
    assert table[8].to_list() == [pytest.approx(100 * ((5 / 3) / 1 - 1))]


def test_speeds_are_ratios_to_plain_decoding_of_the_same_setting():
    common = {"dtype": "float32", "temperature": 0.0, "tree": 0.1, "commit": 0.1, "other": 0.2, "draft": 2.0}
    plain = {"arm": "plain", "tokens": 10, "cpu s": 5.0, "rounds": 9, "accepted": 0, "verify": 4.0, "same": True}
    chain = {"arm": "chain", "tokens": 10, "cpu s": 2.0, "rounds": 4, "accepted": 6, "verify": 8.0, "same": False}
    table = long_texts.speeds(pd.DataFrame([common | plain | {"gap": None}, common | chain | {"gap": 0.5}]))
    assert table["times plain"].to_list() == [1.0, 2.5]
    chain = table.iloc[1]
    assert chain.accepted == 1.5
    assert chain["draft, % of verify"] == 25
    assert chain["loop, % of verify"] == pytest.approx(5)
    assert chain["other texts"] == 1
    assert chain["largest gap"] == 0.5
