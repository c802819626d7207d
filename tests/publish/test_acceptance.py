"""Accepting: the order, one paper at a time, and what moved."""

from dataclasses import replace

import pytest

from palimpsest import arithmetic, ledger
from palimpsest.ledger import Judgement
from palimpsest.metrics.statistics import Estimate
from palimpsest.publish import acceptance, gates, pages
from palimpsest.runs import paths

OLD = Estimate(mean=0.5, sd=3.0, n=9, low=-1.8, high=2.8, p=0.6)
NEW = Estimate(mean=2.0, sd=0.9, n=9, low=1.3, high=2.7, p=0.001)


@pytest.fixture
def done(tmp_path, monkeypatch):
    """What was done, in order; a chapter measures NEW where OLD was accepted for claim `jscds-half` alone."""
    steps, half = [], ledger.claims()["jscds-half"]
    state = {"claim": replace(half, judgement=Judgement(half.id, OLD, "inconclusive", 0.6, ""), record=None)}
    monkeypatch.setattr(arithmetic, "pin", lambda: steps.append("pin"))
    monkeypatch.setattr(ledger, "load", lambda: [state["claim"]])
    monkeypatch.setattr(gates, "EXECUTED", tmp_path)
    monkeypatch.setattr(gates, "execute", lambda chapter: steps.append(f"execute {chapter}"))
    monkeypatch.setattr(gates, "refresh", lambda chapter: steps.append(f"refresh {chapter}"))
    for name in ("write", "write_readme"):
        monkeypatch.setattr(pages, name, lambda name=name: steps.append(name))

    def accepted(papers, runtimes):
        steps.append(f"accept {papers} {runtimes}")
        state["claim"] = replace(half, judgement=Judgement(half.id, NEW, "supported", 0.001, ""))

    monkeypatch.setattr(ledger, "accept", accepted)
    return steps


def test_the_order_is_execute_accept_execute_render(done, tmp_path):
    (tmp_path / "04_jscds.seconds").write_text("61.0")
    lines = acceptance.accept(["jscds", "jscds"])
    assert done == [
        "pin",
        "execute 04_jscds",
        "accept ['jscds'] {'jscds': 61.0}",
        "refresh 04_jscds",
        "write",
        "write_readme",
    ]
    assert lines == [
        "jscds-half: inconclusive, 0.50 points [−1.80, 2.80] → supported, 2.00 points [1.30, 2.70]",
    ]


def test_an_unknown_paper_is_refused_before_anything_runs(done):
    with pytest.raises(ValueError, match=r"papers: got 'elsevier', want some of"):
        acceptance.accept(["jscds", "elsevier"])
    assert done == []


def test_nothing_is_accepted_from_a_chapter_that_fails(done, monkeypatch):
    def fails(chapter):
        raise gates.GateError(f"{chapter}: cell 7 failed")

    monkeypatch.setattr(gates, "execute", fails)
    with pytest.raises(gates.GateError, match="04_jscds: cell 7 failed"):
        acceptance.accept(["jscds"])
    assert done == ["pin"]


def test_every_paper_of_the_ledger_has_a_chapter():
    found = acceptance.chapters([ledger.file_of(claim) for claim in ledger.claims().values()])
    assert sorted(found) == ["jscds", "neighbours", "oeu", "qmul", "sage", "sau"]
    for chapter in found.values():
        assert (paths.ROOT / "notebooks" / f"{chapter}.py").exists()
