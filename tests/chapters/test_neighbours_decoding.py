"""SAGE's neighbours in their chapter: what costs are read, and the rules of the tables."""

import pandas as pd
import pytest
import torch

from palimpsest.chapters.neighbours import claims, decoding_claims
from palimpsest.chapters.neighbours import decoding_tables as tables
from palimpsest.chapters.neighbours.decoding import Results, costs_of
from palimpsest.chapters.neighbours.decoding_arms import true_levels
from palimpsest.data import captions, fashion_mnist, pairs


def test_layers_left_out_cost_by_their_number():
    whole, half = costs_of("SAGE"), costs_of("skipping 2×, SAGE")
    for rows in (1, 16):
        target, drafter = (float(whole.seconds(name, rows)) for name in ("target", "drafter"))
        # 8 of 16 layers, between 2 and 16.
        assert float(half.seconds("drafter", rows)) == pytest.approx(drafter + 6 / 14 * (target - drafter))
        assert float(half.seconds("target", rows)) == target


def rows(arm, accepted, requests=(0,)):
    """Three seeds alike: rounds with so many drafts accepted, a chain of four each, and no model that drafts."""
    return [
        {"arm": arm, "seed": seed, "request": i, "accepted": accepted, "sizes": [4] * len(accepted), "length": 9}
        | {"expanded": [0] * len(accepted), "draft forwards": 0, "same": True}
        for seed in range(3)
        for i in requests
    ]


def test_arms_are_compared_on_the_requests_that_both_have():
    told = Results(pd.DataFrame(rows("a", [3, 1], (0, 1)) + rows("b", [1, 1], (0,))), pd.DataFrame())
    assert told.by_seed("a", "tau").tolist() == [2.0] * 3
    told.lossless.loc[(told.lossless.arm == "a") & (told.lossless.request == 1), "accepted"] = pd.Series(
        [[9, 9]] * 3, index=told.lossless.index[(told.lossless.arm == "a") & (told.lossless.request == 1)]
    )
    assert tables.difference(told, "a", "b", "tau").mean == 1.0
    assert tables.verdict(tables.difference(told, "a", "b", "tau")) == "ahead"
    assert tables.verdict(tables.difference(told, "b", "a", "tau")) == "behind"
    assert tables.verdict(tables.difference(told, "b", "b", "tau")) == "undecided"
    with pytest.raises(ValueError, match="arm: got 'c'"):
        told.by_seed("c", "tau")


def test_true_statements_are_counted_against_the_picture():
    image = fashion_mnist.load().test.images[:1]
    (own,) = captions.levels(image).tolist()
    label = int(fashion_mnist.load().test.labels[0])
    text = captions.compose(label, own, "detail", torch.Generator().manual_seed(0)).text
    tokens = pairs.processor().tokenizer.encode(text)
    assert true_levels(tokens, image) == 1.0
    wrong = captions.compose(label, [(level + 1) % 3 for level in own], "detail", torch.Generator().manual_seed(0))
    assert true_levels(pairs.processor().tokenizer.encode(wrong.text), image) == 0.0


def test_what_held_is_said_in_the_grammar_of_verdicts():
    arms = {"trigrams, ADED's tree": [3, 3], "recycling, ADED's tree": [1, 1], "skipping 2×, SAGE": [0, 0]}
    arms |= {"recycling, SAGE": [0, 1]} | {arm: [2, 2] for arm in ("SAGE", "superposed, SAGE")}
    table = pd.DataFrame([row for arm, accepted in arms.items() for row in rows(arm, accepted)])
    lossy = {"threshold": 1.0, "true": 0.5, "true of target": 0.9, "same": False, "large": 0.3, "cost": 0.5}
    told = Results(table, pd.DataFrame([lossy | {"seed": s} for s in range(3)]))
    judged = {j.id: j for j in decoding_claims.judgements(told)}
    # Two drafts more of triples, half a draft more in the other tree; the same cost; forty points less are true. What
    # a chain that fails costs depends on the machine whose seconds were recorded.
    found = {name.partition("-")[2]: judgement.verdict for name, judgement in judged.items()}
    del found["skipping"]
    assert found == {
        "trigrams": "supported",
        "tree": "supported",
        "superposed": "no effect",
        "turns": "contradicted",
    }
    assert judged["neighbours-trigrams"].measured.mean == 2
    assert judged["neighbours-tree"].measured.mean == 0.5
    shown = claims.held(judged)
    assert shown["what held here"].tolist()[:2] == ["● supported", "● supported"]
    assert shown.neighbour.tolist()[:3] == ["ADED", "ADED", "Superposed decoding"]
    assert shown.measured[0] == "2.00 [2.00, 2.00]"
