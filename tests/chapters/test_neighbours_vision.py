"""The stress tests of vision: small worlds, heads exchanged, and the rules of the tables."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from palimpsest.chapters.neighbours import vision_claims, vision_poison, vision_spread, vision_stress
from palimpsest.chapters.neighbours import vision_tables as tables
from palimpsest.chapters.neighbours.vision import Results, around
from palimpsest.chapters.neighbours.vision_probes import exchanged, knowledge
from palimpsest.chapters.neighbours.vision_worlds import PROFILES, Small, loaded, problem
from palimpsest.runs import paths
from palimpsest.training import logits
from palimpsest.unlearning.vision.corrective import triggered

TINY = replace(PROFILES["smoke"], samples=40, forget=4, unseen=100, datamodels=2, epochs=1, retain_samples=8)


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "CACHE", tmp_path_factory.mktemp("cache"))
        patch.setitem(PROFILES, "tiny", TINY)
        yield


def test_worlds_share_no_more_than_they_should():
    given = problem(TINY, [0, 1, 0])
    assert torch.equal(given.x[0], given.x[2])
    assert not torch.equal(given.x[0], given.x[1])
    together = torch.cat([given.forget, given.retain], 1).sort(1).values
    assert torch.equal(together, torch.arange(40).expand(3, -1))
    own, unseen = given.x.flatten(0, 1).flatten(1), torch.cat([given.test[0], given.validation[0]]).flatten(1)
    assert not (own[:, None] == unseen[None]).all(2).any()


def test_networks_of_a_world_differ_and_come_back():
    first, second = loaded("tiny", 0, "original", 2)
    again = loaded("tiny", 0, "original", 1)[0]
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, second.head.weight)


def test_a_head_is_exchanged_in_a_copy():
    one, other = Small(0), Small(1)
    before = one.head.weight.clone()
    (mixed,) = exchanged([one], [other])
    assert torch.equal(mixed.head.weight, other.head.weight)
    assert torch.equal(mixed.body[1].weight, one.body[1].weight)
    assert torch.equal(one.head.weight, before)


def test_what_head_and_body_do_is_told_apart():
    given = problem(TINY, [0, 1])
    originals = [loaded("tiny", seed, "original", 1)[0] for seed in (0, 1)]
    headless = exchanged(originals, [Small(7), Small(8)])  # another head, the same body
    rows = knowledge(headless, originals, originals, given, given.take(given.forget))
    x, y = given.take(given.forget)
    for k, row in enumerate(rows):
        assert row["right"] == row["head"] == float((logits(headless, x)[k].argmax(1) == y[k]).double().mean())
        assert row["body"] == float((logits(originals, x)[k].argmax(1) == y[k]).double().mean())
        assert row["cka_original"] == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["random", "one class", "worst case"])
def test_retrain_has_no_gap_to_itself(kind):
    values = [0.01, 0.01]
    rows = vision_stress.measured("tiny", kind, "retrain", values, values)
    assert [row["gap"] for row in rows] == [0.0, 0.0]
    assert [row["cka_retrain"] for row in rows] == pytest.approx([1.0, 1.0])
    chosen = vision_stress.elsewhere("tiny", "one class", values)["chosen"]
    assert problem(TINY, [0, 1], chosen).take(chosen)[1].tolist() == [[0] * 4, [1] * 4]  # the seed's last digit


def test_matching_subtracts_what_the_datamodels_say():
    given = problem(TINY, [0, 1])
    originals = vision_stress.first_of("tiny", "original")
    predicted = vision_stress.named("tiny", "DMM", given, originals).predicted
    moved = (predicted != logits(originals, given.x)).any(-1)
    assert not moved.gather(1, given.retain).any()


def test_distributions_are_those_of_a_world_s_networks():
    rows = vision_spread.spread("tiny", "original", [0.0, 0.0])
    assert [row["seed"] for row in rows] == [0, 1]
    assert all(row["klom"] > 0 for row in rows)


@pytest.mark.parametrize(("known", "size"), [("half", 2), ("all", 4)])
def test_half_of_the_poison_is_known_and_all_of_it_is_there(known, size):
    clean, given = problem(TINY, [0, 1]), vision_poison.told("tiny", known)
    assert given.forget.shape == (2, size)
    for k in range(2):
        assert set(given.forget[k].tolist()) <= set(clean.forget[k].tolist())
        assert torch.equal(given.x[k, clean.forget[k]], triggered(clean.x[k, clean.forget[k]]))
        assert given.y[k, clean.forget[k]].eq(vision_poison.TARGET).all()
        assert torch.equal(given.x[k, clean.retain[k]], clean.x[k, clean.retain[k]])
    assert len(vision_poison.corrected("tiny", known, "retrain", [0.0, 0.0])) == 2


def test_values_are_a_root_of_three_apart_with_the_pilot_s_last_but_one():
    assert around(0.03) == [0.01, 0.0173, 0.03, 0.052]


# The rules, on three seeds whose differences are the same: an interval is its mean.


def results(**columns: dict[str, float]) -> Results:
    """Three seeds for each arm, given "right", "head", "body", "linear" and so on by arm, in [0, 1]."""
    arms = next(iter(columns.values()))
    rows = [
        {"method": arm, "seed": seed} | {name: values[arm] for name, values in columns.items()}
        for arm in arms
        for seed in range(3)
    ]
    table = pd.DataFrame(rows)
    return Results(table, table, table, table, table)


def test_a_test_separates_where_zero_is_outside_its_interval():
    told = results(linear={"original": 0.9, "retrain": 0.8})
    assert tables.separates(tables.separation(told, "probes", "linear")) == "yes"
    told.probes.loc[0, "linear"] = 0.3
    assert tables.separates(tables.separation(told, "probes", "linear")) == "not at this size"


@pytest.mark.parametrize(
    ("head", "body", "right", "wanted"),
    [
        (0.5, 0.9, 0.5, "the last layer"),
        (0.9, 0.5, 0.5, "the body"),
        (0.7, 0.7, 0.5, "undecided"),
        (0.5, 0.9, 0.985, "loses less than two points"),
    ],
)
def test_the_side_that_loses_more_is_named(head, body, right, wanted):
    given = {"right": right, "head": head, "body": body}
    told = results(**{name: {"original": 1.0, "method": value} for name, value in given.items()})
    assert tables.side(told, "probes", "method") == wanted


def test_nearer_is_judged_from_the_middle_and_only_by_a_test_that_separates():
    told = results(linear={"original": 0.9, "retrain": 0.7, "a": 0.85, "b": 0.75, "c": 0.8})
    assert [tables.nearer(told, "probes", "linear", m) for m in "abc"] == ["original", "Retrain", "between"]
    blind = results(linear={"original": 0.8, "retrain": 0.8, "a": 0.9})
    assert tables.nearer(blind, "probes", "linear", "a") == "–"


def test_an_arm_that_was_not_run_is_refused():
    with pytest.raises(ValueError, match="method: got 'other'"):
        results(linear={"original": 0.9}).column("probes", "linear", "other")


def test_claims_are_judged_by_the_least_of_the_two_methods():
    parts = {"body": {"Q-MUL": 0.5, "OEU": 0.9}, "head": {"Q-MUL": 0.9, "OEU": 0.5}}
    for values in parts.values():
        values |= dict.fromkeys(("fine-tune", "random label", "retrain"), 0.5)
    judged = vision_claims.layer(results(**parts))
    assert judged.measured.mean == pytest.approx(-40)
    assert judged.verdict == "contradicted"
    assert "Q-MUL -40.0 points" in judged.why
    assert "OEU +40.0 points" in judged.why


def test_what_the_other_half_of_the_poison_is_worth():
    rows = [
        {"method": method, "known": known, "seed": seed, "corrected": share}
        for method, shares in {"original": (0.1, 0.1), "retrain": (0.2, 0.8)}.items()
        for known, share in zip(("half", "all"), shares, strict=True)
        for seed in range(3)
    ]
    empty = pd.DataFrame()
    judged = vision_claims.poison(Results(empty, empty, empty, pd.DataFrame(rows), empty))
    assert judged.measured.mean == pytest.approx(60)
    assert judged.verdict == "supported"
