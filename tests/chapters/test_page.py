"""What pages share: how one begins, what it prints of claims, and what it says it was computed with."""

import warnings

import pytest
import torch

from palimpsest import kernels, ledger, runs
from palimpsest.chapters.shared import page


@pytest.fixture
def judgements():
    """Of two accepted claims of one paper, what was accepted."""
    return {claim.id: claim.judgement for claim in ledger.load() if claim.id in ("jscds-half", "jscds-seventy")}


def test_a_page_begins_with_the_setting_of_its_profile_and_computes_with_one_thread():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with warnings.catch_warnings():
            assert page.begin("ci", {"smoke": 1, "ci": 2}) == 2
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)


def test_a_profile_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"profile: got 'huge', want one of \['smoke', 'ci'\]"):
        page.begin("huge", {"smoke": 1, "ci": 2})


def test_verdicts_are_those_of_what_was_found_and_are_recorded(judgements, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ledger, "FRESH", tmp_path)
    verdicts = page.Verdicts("jscds", "ci", "toys", lambda *found: judgements if found == (1, 2) else {}, 1, 2)
    verdicts.show("jscds-half")
    assert capsys.readouterr().out == ledger.report(judgements["jscds-half"]) + "\n"
    table = verdicts.record()
    assert all(name in table.data for name in judgements)
    recorded = {claim.id: claim.judgement for claim in ledger.load(tmp_path) if claim.judgement}
    assert recorded == judgements


def test_at_smoke_nothing_is_judged_or_recorded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ledger, "FRESH", tmp_path)
    verdicts = page.Verdicts("jscds", "smoke", "toys", lambda found: pytest.fail("judged"), 1)
    verdicts.show("jscds-half")
    assert capsys.readouterr().out == "jscds-half: not judged at profile smoke\n"
    assert verdicts.record() is None
    assert list(tmp_path.iterdir()) == []


def experiment():
    return 1


def test_provenance_names_profile_backend_versions_and_shipped_data_but_no_commit():
    kernels.softmax_entropy(torch.zeros(2, 3))
    shown = page.provenance("ci", experiment, {"data set": "none & nothing"}).data
    for text in ("ci", "softmax_entropy: ", torch.__version__, runs.shipped(experiment)[:16], "none &amp; nothing"):
        assert f"<td>{text}" in shown
    assert "commit" not in shown
    assert "shipped" not in page.provenance("ci", None, {}).data
