"""The ledger: what is loaded, what drifts, what is rendered."""

import json
from dataclasses import replace

import pytest
import yaml

from palimpsest import ledger
from palimpsest.data import manifest
from palimpsest.ledger import Judgement
from palimpsest.metrics.statistics import Estimate
from palimpsest.publish import pages
from palimpsest.runs import paths

ENTRY = {
    "id": "toy-first",
    "paper": "TOY",
    "locus": "abstract",
    "statement": "More is more.",
    "kind": "ordering",
    "paper_value": "+3",
    "paper_setting": "theirs",
    "our_setting": "ours",
    "profile": "ci",
    "measure": "more minus less",
    "unit": "points",
    "rule": "above zero",
    "floor": 0.5,
    "floor_reason": "rounding",
    "cell": "01_toy#claim-first",
    "command": "make chapter CH=01",
}
MEASURED = Estimate(mean=2.0, sd=0.9, n=9, low=1.3, high=2.7, p=0.001)


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A data folder with one claim, and a place for fresh results."""
    monkeypatch.setattr(paths, "DATA", tmp_path / "data")
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(ledger, "FRESH", tmp_path / "fresh")
    file = tmp_path / "data" / "claims" / "toy.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump([ENTRY]))
    manifest.update(["claims/toy.yaml"])
    return tmp_path


def measure(house, **changes):
    judgement = Judgement("toy-first", replace(MEASURED, **changes), "reproduced", "because")
    ledger.record("toy", "ci", [judgement])
    return judgement


def test_a_claim_without_result_is_not_run(house):
    (claim,) = ledger.load()
    assert claim.verdict == "not run"
    assert pages.measured(claim) == "–"


def test_accepting_records_where_and_when(house):
    measure(house)
    ledger.accept({"toy": 61.0})
    (claim,) = ledger.load()
    assert claim.verdict == "reproduced"
    assert claim.judgement.measured == MEASURED
    assert claim.record["runtime_s"] == 61.0
    assert {"torch", "cpu", "commit"} <= claim.record["environment"].keys()
    assert ledger.regressions() == []
    manifest.check()


def test_tolerance_is_three_standard_errors_or_the_floor(house):
    (claim,) = ledger.load()
    assert claim.tolerance(MEASURED) == pytest.approx(3 * 0.9 / 3)  # 3 · sd / √9
    assert claim.tolerance(replace(MEASURED, sd=0.0)) == 0.5


@pytest.mark.parametrize("name", ["mean", "low", "high", "sd"])
def test_a_value_beyond_the_tolerance_is_a_regression(house, name):
    measure(house)
    ledger.accept({})
    measure(house, **{name: getattr(MEASURED, name) + 0.89})
    assert ledger.regressions() == []
    measure(house, **{name: getattr(MEASURED, name) + 0.91})
    (problem,) = ledger.regressions()
    assert f"toy-first: {name} is now" in problem


def test_another_verdict_is_a_regression(house):
    measure(house)
    ledger.accept({})
    ledger.record("toy", "ci", [Judgement("toy-first", MEASURED, "trend only", "of rounding")])
    assert ledger.regressions() == ["toy-first: the verdict is now 'trend only', accepted was 'reproduced'"]


def test_pages_show_the_accepted_run_and_its_processor(house, monkeypatch):
    monkeypatch.setattr(ledger, "processor", lambda: "Other CPU 7 (r)")
    measure(house)
    ledger.accept({"toy": 5.0})
    claims = ledger.load()
    row = "| ● reproduced | 2.00 points [1.30, 2.70] | 9 |"
    assert row in pages.claims_table(claims, lambda c: c.id)
    results = pages.results_page(claims)
    assert "- *Measured*: more minus less: 2.00 points [1.30, 2.70] (sd 0.90, 9 seeds)." in results
    assert "- *Why*: because" in results
    assert "(Other CPU 7 (r))" in pages.status_page(claims)


def test_accepting_leaves_other_papers_alone(house):
    measure(house)
    ledger.accept({})
    kept = (paths.DATA / "results" / "toy.ci.json").read_bytes()
    (ledger.FRESH / "toy.ci.json").unlink()
    assert ledger.accept({}) == []
    assert (paths.DATA / "results" / "toy.ci.json").read_bytes() == kept


def test_nothing_is_recorded_that_was_computed_otherwise_than_asked(house, monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "AVX512")
    with pytest.raises(RuntimeError, match="arithmetic: native: MKL_CBWR is 'AVX512'"):
        measure(house)
    monkeypatch.setenv("PALIMPSEST_ARITHMETIC", "native")
    measure(house)


def test_nan_is_a_regression(house):
    measure(house)
    ledger.accept({})
    measure(house, mean=float("nan"))
    assert len(ledger.regressions()) == 1


def test_another_verdict_or_number_of_seeds_is_a_regression(house):
    measure(house)
    ledger.accept({})
    ledger.record("toy", "ci", [Judgement("toy-first", MEASURED, "trend only", "because")])
    assert "the verdict is now 'trend only'" in ledger.regressions()[0]
    measure(house, n=8)
    assert "8 seeds, accepted were 9" in ledger.regressions()[0]


def test_an_accepted_claim_that_no_chapter_measured_is_a_regression(house):
    measure(house)
    ledger.accept({})
    (ledger.FRESH / "toy.ci.json").unlink()
    assert ledger.regressions() == ["toy-first: accepted, but no chapter measured it"]


def test_a_hand_edited_result_is_refused(house):
    measure(house)
    (path,) = ledger.accept({})
    path.write_text(path.read_text().replace('"mean": 2.0', '"mean": 2.1'))
    with pytest.raises(ValueError, match=r"toy\.ci\.json: altered"):
        ledger.load()


def test_a_hand_edited_claim_is_refused(house):
    path = paths.DATA / "claims" / "toy.yaml"
    path.write_text(path.read_text().replace("0.5", "5.0"))
    with pytest.raises(ValueError, match=r"toy\.yaml: (altered|truncated)"):
        ledger.load()


def test_a_result_of_no_claim_is_refused(house):
    ledger.record("toy", "ci", [Judgement("toy-second", MEASURED, "reproduced", "because")])
    with pytest.raises(ValueError, match="toy-second belongs to no claim"):
        ledger.load(ledger.FRESH)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"kind": "vibe"}, "kind of toy-first: got 'vibe'"), ({"colour": "red"}, "claim toy-first.*colour")],
)
def test_a_malformed_claim_is_named(house, change, message):
    (paths.DATA / "claims" / "toy.yaml").write_text(yaml.safe_dump([ENTRY | change]))
    manifest.update(["claims/toy.yaml"])
    with pytest.raises(ValueError, match=message):
        ledger.load()


def test_an_identifier_used_twice_is_refused(house):
    (paths.DATA / "claims" / "toy.yaml").write_text(yaml.safe_dump([ENTRY, ENTRY]))
    manifest.update(["claims/toy.yaml"])
    with pytest.raises(ValueError, match="toy-first is defined twice"):
        ledger.load()


def test_a_verdict_has_four_values():
    with pytest.raises(ValueError, match="verdict of x: got 'mostly'"):
        Judgement("x", MEASURED, "mostly", "")


def test_the_printed_text_is_the_same_within_tolerance_and_shouts_beyond(house):
    first = ledger.report(measure(house))
    ledger.accept({})
    assert first == "toy-first: reproduced\nmore minus less: +2.0 points, 9 seeds"
    assert ledger.report(measure(house, mean=2.4)) == first
    assert ledger.report(measure(house, mean=4.4)).startswith("DRIFT toy-first: mean is now 4.4 points")


def test_pages_say_verdict_interval_seeds_and_reason(house):
    measure(house)
    ledger.accept({})
    claims = ledger.load()
    table = pages.claims_table(claims, lambda c: c.id)
    assert "| toy-first | More is more. | ● reproduced | 2.00 points [1.30, 2.70] | 9 |" in table
    results = pages.results_page(claims)
    assert "*Why*: because" in results
    assert "*Rule*: above zero." in results
    assert "1 reproduced, 0 trend only, 0 not reproduced, 0 not run" in pages.status_page(claims)


def test_a_negative_number_has_a_minus_sign_and_a_hyphen_stays(house):
    measure(house, mean=-2.0, low=-2.7, high=-1.3)
    (claim,) = ledger.load(ledger.FRESH)
    assert pages.measured(claim) == "−2.00 points [−2.70, −1.30]"


def test_readme_table_is_replaced_between_its_markers(house):
    measure(house)
    ledger.accept({})
    text = pages.readme_with_table("a\n<!-- claims -->\nold\n<!-- /claims -->\nb\n")
    assert "old" not in text
    assert text.startswith("a\n<!-- claims -->\n| claim |")
    assert text.endswith("<!-- /claims -->\nb\n")
    with pytest.raises(ValueError, match=r"README\.md: want exactly one"):
        pages.readme_with_table("no markers")


def test_the_shipped_claims_load_and_have_results():
    claims = ledger.load()
    assert [c.id for c in claims if c.paper == "JSCDS"] == [
        "jscds-half",
        "jscds-seventy",
        "jscds-best",
        "jscds-fast",
        "jscds-nonlinear",
        "jscds-text-vs-code",
    ]
    for claim in claims:
        assert claim.verdict != "not run"
        assert claim.judgement.why
        assert json.dumps(claim.record["environment"])
