"""The ledger: what is loaded, what drifts, what is rendered."""

import json
from dataclasses import replace

import pytest
import yaml

from palimpsest import arithmetic, findings, ledger
from palimpsest.data import drill_rows, manifest
from palimpsest.ledger import Judgement
from palimpsest.metrics.statistics import Estimate, needed
from palimpsest.publish import cards, machines, pages
from palimpsest.runs import paths

ENTRY = {
    "id": "toy-first",
    "paper": "TOY",
    "locus": "abstract",
    "statement": "More is more.",
    "by": "paper",
    "kind": "ordering",
    "paper_value": "+3",
    "paper_setting": "theirs",
    "profile": "ci",
    "quantity": "more minus less",
    "unit": "points",
    "wants": "above",
    "margin": 1.0,
    "margin_reason": "less is not noticed",
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
    (tmp_path / "data" / "claims").mkdir(parents=True)
    claim(ENTRY)
    return tmp_path


def claim(*entries):
    """Make these the claims of the data folder."""
    (paths.DATA / "claims" / "toy.yaml").write_text(yaml.safe_dump(list(entries)))
    manifest.update(["claims/toy.yaml"])


def measure(**changes):
    """Record what a chapter would have measured."""
    judgement = ledger.judge("toy-first", replace(MEASURED, **changes), "because")
    ledger.record("toy", "ci", "ours", [judgement])
    return judgement


def test_a_claim_without_result_is_not_run(house):
    (found,) = ledger.load()
    assert found.verdict == "not run"
    assert findings.measured(found) == "–"
    assert found.power is None


def test_accepting_records_where_when_and_in_which_setting(house):
    measure()
    ledger.accept(["toy"], {"toy": 61.0})
    (found,) = ledger.load()
    assert found.verdict == "supported"
    assert found.judgement.measured == MEASURED
    assert found.record["runtime_s"] == 61.0
    assert found.record["setting"] == "ours"
    assert {"torch", "cpu", "commit", "processor"} <= found.record["environment"].keys()
    assert found.record["environment"]["arithmetic"] == "pinned"
    assert found.power == needed(0.9, 1.0)
    assert ledger.regressions() == []
    manifest.check()


@pytest.mark.parametrize("name", ["mean", "low", "high"])
def test_another_printed_digit_is_a_regression(house, name):
    measure()
    ledger.accept(["toy"], {})
    measure(**{name: getattr(MEASURED, name) + 0.004})
    assert ledger.regressions() == []
    measure(**{name: getattr(MEASURED, name) + 0.006})
    (problem,) = ledger.regressions()
    assert problem.startswith("toy-first: is now 2.")
    assert problem.endswith("accepted was 2.00 points [1.30, 2.70]")


def test_where_arithmetic_cannot_be_pinned_the_mean_must_lie_in_the_interval(house, monkeypatch):
    measure()
    ledger.accept(["toy"], {})
    monkeypatch.setattr(arithmetic, "label", lambda: "native: aarch64 has none of the routines")
    monkeypatch.setattr(arithmetic, "require", lambda: None)
    measure(mean=2.6, low=-1.0, high=6.0)
    assert ledger.regressions() == []
    measure(mean=2.8)
    assert ledger.regressions() == [
        "toy-first: is now 2.80 points [1.30, 2.70], outside of the accepted 2.00 points [1.30, 2.70]"
    ]


def test_another_verdict_number_of_seeds_or_reason_is_a_regression(house):
    measure()
    ledger.accept(["toy"], {})
    other = Judgement("toy-first", MEASURED, "inconclusive", 0.3, "because")
    assert ledger.drift(ledger.load()[0], other) == (
        "toy-first: the verdict is now 'inconclusive', accepted was 'supported'"
    )
    assert "the reason is now 'why not'" in ledger.drift(ledger.load()[0], replace(measure(), why="why not"))
    measure(n=8)
    assert "8 seeds, accepted were 9" in ledger.regressions()[0]


def test_nan_is_a_regression(house):
    measure()
    ledger.accept(["toy"], {})
    broken = replace(measure(), measured=replace(MEASURED, mean=float("nan")))
    assert "is now nan points" in ledger.drift(ledger.load()[0], broken)


def test_accepting_leaves_other_papers_alone(house):
    claim(ENTRY, ENTRY | {"id": "other-first"})
    measure()
    ledger.record("other", "ci", "ours", [ledger.judge("other-first", MEASURED, "because")])
    ledger.accept(["toy", "other"], {"toy": 5.0})
    kept = (paths.DATA / "results" / "other.ci.json").read_bytes()
    ledger.record("other", "ci", "ours", [ledger.judge("other-first", replace(MEASURED, mean=9.0), "because")])
    assert [path.name for path in ledger.accept(["toy"], {})] == ["toy.ci.json"]
    assert (paths.DATA / "results" / "other.ci.json").read_bytes() == kept
    assert ledger.load()[0].record["runtime_s"] == 5.0  # nothing newer is known


def test_accepting_without_a_fresh_result_is_refused_before_anything_is_written(house):
    measure()
    with pytest.raises(ValueError, match="papers: other has no fresh result; execute its chapter first"):
        ledger.accept(["toy", "other"], {})
    assert not (paths.DATA / "results").exists()


def test_nothing_is_recorded_that_was_computed_otherwise_than_asked(house, monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "AVX512")
    with pytest.raises(RuntimeError, match="arithmetic: native: MKL_CBWR is 'AVX512'"):
        measure()
    monkeypatch.setenv("PALIMPSEST_ARITHMETIC", "native")
    measure()


def test_an_accepted_claim_that_no_chapter_measured_is_a_regression(house):
    measure()
    ledger.accept(["toy"], {})
    (ledger.FRESH / "toy.ci.json").unlink()
    assert ledger.regressions() == ["toy-first: accepted, but no chapter measured it"]


def test_a_hand_edited_result_is_refused(house):
    measure()
    (path,) = ledger.accept(["toy"], {})
    path.write_text(path.read_text().replace('"mean": 2.0', '"mean": 2.1'))
    with pytest.raises(ValueError, match=r"toy\.ci\.json: altered"):
        ledger.load()


def test_a_hand_edited_claim_is_refused(house):
    path = paths.DATA / "claims" / "toy.yaml"
    path.write_text(path.read_text().replace("1.0", "5.0"))
    with pytest.raises(ValueError, match=r"toy\.yaml: (altered|truncated)"):
        ledger.load()


def test_a_result_of_no_claim_is_refused(house):
    ledger.record("toy", "ci", "ours", [Judgement("toy-second", MEASURED, "supported", 0.0, "because")])
    with pytest.raises(ValueError, match="toy-second belongs to no claim"):
        ledger.load(ledger.FRESH)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "vibe"}, "kind of toy-first: got 'vibe'"),
        ({"by": "rumour"}, "by of toy-first: got 'rumour'"),
        ({"colour": "red"}, "claim toy-first.*colour"),
        ({"margin": 0.0}, "margin of 'more minus less': got 0.0"),
        ({"wants": "within"}, "wants of toy-first: got 'within', which kind 'ordering' does not want"),
        ({"kind": "exact"}, "wants of toy-first: got 'above', which kind 'exact' does not want"),
        ({"pending": {"supported": "soon"}}, "pending of toy-first: got {'supported': 'soon'}"),
        ({"also": {"x": {"quantity": "y", "unit": "", "wants": "up", "margin": 1.0}}}, "wants of 'y': got 'up'"),
        ({"also": {"x": {"quantity": "y", "unit": "", "wants": "above"}}}, "claim toy-first.*margin"),
    ],
)
def test_a_malformed_claim_is_named(house, change, message):
    claim(ENTRY | change)
    with pytest.raises(ValueError, match=message):
        ledger.load()


def test_a_claim_without_margin_is_named(house):
    claim({name: value for name, value in ENTRY.items() if name != "margin"})
    with pytest.raises(ValueError, match=r"toy\.yaml: claim toy-first: .*'margin'"):
        ledger.load()


def test_an_identifier_used_twice_is_refused(house):
    claim(ENTRY, ENTRY)
    with pytest.raises(ValueError, match="toy-first is defined twice"):
        ledger.load()


def test_a_verdict_has_five_values():
    with pytest.raises(ValueError, match="verdict of x: got 'mostly'"):
        Judgement("x", MEASURED, "mostly", 0.0, "")


TWO = ENTRY | {"also": {"too": {"quantity": "much", "unit": "%", "wants": "below", "bar": 5.0, "margin": 1.0}}}


def test_what_must_hold_together_is_judged_together(house):
    claim(TWO)
    assert ledger.judge("toy-first", MEASURED, "", also={"too": replace(MEASURED, mean=2.0)}).verdict == "supported"
    assert (
        ledger.judge("toy-first", MEASURED, "", also={"too": replace(MEASURED, mean=9.0)}).verdict == "contradicted"
    )
    with pytest.raises(ValueError, match=r"also: got \[\] for toy-first, want \['too'\]"):
        ledger.judge("toy-first", MEASURED, "")
    with pytest.raises(ValueError, match="name: got 'toy-third', which is no claim"):
        ledger.judge("toy-third", MEASURED, "")


def test_a_family_must_hold_against_every_rival(house):
    rivals = {"a": MEASURED, "b": replace(MEASURED, mean=3.0)}
    assert ledger.judge("toy-first", MEASURED, "", family=rivals).verdict == "supported"
    rivals["c"] = replace(MEASURED, mean=-3.0)
    assert ledger.judge("toy-first", MEASURED, "", family=rivals).verdict == "contradicted"


def test_a_pending_claim_says_what_it_waits_for(house):
    claim(ENTRY | {"pending": {"inconclusive": "The rule changes."}})
    judged = ledger.judge("toy-first", MEASURED, "because")
    assert (judged.verdict, judged.why) == ("inconclusive", "The rule changes. because")


def test_what_was_not_run_shows_no_value(house):
    claim(ENTRY | {"pending": {"not run": "Too long."}})
    measure()
    ledger.accept(["toy"], {})
    (found,) = ledger.load()
    assert "| –\N{NO-BREAK SPACE}not run | – | – |" in pages.claims_table([found])
    card = cards.card(found, "toy")
    assert "*Why*: Too long. because" in card
    assert "out of the claim's range: 2.00 points" in card


def test_the_claims_of_a_paper_are_corrected_together(house):
    claim(*(ENTRY | {"id": f"toy-{name}"} for name in "abc"), ENTRY | {"id": "toy-d", "by": "ours"})
    weak, open_ = replace(MEASURED, mean=2.0, sd=2.4), replace(MEASURED, mean=0.0, sd=9.0)
    alone = ledger.judge("toy-a", weak, "It is.")
    assert alone.verdict == "supported"
    assert 0.05 / 3 < alone.p < 0.05
    rest = [ledger.judge("toy-b", open_, ""), ledger.judge("toy-c", open_, ""), ledger.judge("toy-d", weak, "")]
    settled = ledger.settle([alone, *rest])
    assert settled["toy-a"].verdict == "inconclusive"
    assert settled["toy-a"].why.startswith("It is. Judged alone it would be supported (p = 0.0")
    assert settled["toy-d"].verdict == "supported"  # a claim of ours is no part of the paper's family
    strong = ledger.judge("toy-a", MEASURED, "It is.")
    assert ledger.settle([strong, *rest])["toy-a"] == strong


def test_the_printed_text_shouts_where_it_drifts(house):
    first = ledger.report(measure())
    ledger.accept(["toy"], {})
    assert first == "toy-first: supported\nmore minus less: 2.00 points [1.30, 2.70], 9 seeds"
    assert ledger.report(measure(mean=2.004)) == first
    assert ledger.report(measure(mean=4.4)).startswith("DRIFT toy-first: is now 4.40 points")


def test_pages_say_verdict_interval_seeds_rule_power_setting_and_reason(house):
    claim(TWO)
    ledger.record(
        "toy", "ci", "nine seeds of toys", [ledger.judge("toy-first", MEASURED, "because", also={"too": MEASURED})]
    )
    ledger.accept(["toy"], {"toy": 90.0})
    claims = ledger.load()
    table = pages.claims_table(claims)
    assert "| `toy-first` | More is more. | ●\N{NO-BREAK SPACE}supported | 2.00 points [1.30, 2.70] | 9 |" in table
    card = cards.card(claims[0], "toy")
    for line in (
        "#### More is more.",
        "● **supported** · 2.00 points [1.30, 2.70], sd 0.90, 9 seeds · `toy-first`",
        "*Why*: because",
        "*Quantity*: more minus less; wanted above 0 points, margin 1 points.",
        "- *Together with* much: wanted below 5 %, margin 1 %",
        "- *Margin*: less is not noticed",
        f"- *Power*: {needed(0.9, 1.0)} seeds would find",
        "- *Here*: nine seeds of toys; profile `ci`, kind *ordering*, by paper",
    ):
        assert line in card
    accepted = machines.accepted(claims)
    assert "| toy |" in accepted
    assert "| ci | 1.5 |" in accepted
    cores = claims[0].record["environment"]["cores"]
    assert f"| TOY | `make chapter CH=01` | 1.5 | {cores} cores" in machines.minutes(claims)


def test_the_cost_of_pinning_is_a_ratio_of_medians(house):
    file = paths.DATA / "bench" / "arithmetic.cpu.csv"
    file.parent.mkdir()
    rows = ["chapter,piece,arithmetic,cpu_seconds,cpu,torch,commit,date"]
    seconds = {"pinned": (4, 9, 5), "native": (2, 1, 3)}
    rows += [f"1,a run,{how},{s},a chip,2,abc,2026-01-01" for how, found in seconds.items() for s in found]
    file.write_text("\n".join(rows) + "\n")
    manifest.update([file])
    assert machines.pinning().splitlines()[-1] == "| 1 | a run | 3 | 5.0 | 2.0 | 2.50 |"


def test_drills_are_summed_and_what_is_to_be_mended_is_named(house):
    assert machines.drilled() == "Not run."
    environment = {"processor": "a chip", "python": "3", "torch": "2", "commit": "abc"}
    for part, counts in (("f", {"tried": 9, "right": 5, "caught": 4}), ("g", {"tried": 7, "right": 6, "silent": 1})):
        drill_rows.write(drill_rows.Row.of("inputs", part, 0, {"tried": 1}, environment, "2026-01-01"))
        drill_rows.write(drill_rows.Row.of("inputs", part, 0, counts, environment, "2026-01-02"))
    drill_rows.write(drill_rows.Row.of("kills", "h", 0, {"tried": 1200, "right": 1200}, environment, "2026-01-02"))
    assert machines.drilled().splitlines()[-4:] == [
        "| inputs | all 2 | 16 | 11 | 4 | 1 | 0 | 0 |",
        "| inputs | g | 7 | 6 | 0 | 1 | 0 | 0 |",
        "| kills | all 1 | 1,200 | 1,200 | 0 | 0 | 0 | 0 |",
        "| kills | h | 1,200 | 1,200 | 0 | 0 | 0 | 0 |",
    ]
    assert "with a chip; commit `abc`, 2026-01-02." in machines.drilled()


def test_the_tally_counts_whose_claims_have_which_verdict(house):
    claim(*(ENTRY | {"id": f"toy-{name}"} for name in "ab"), ENTRY | {"id": "toy-c", "by": "construction"})
    ledger.record("toy", "ci", "", [ledger.judge("toy-a", MEASURED, "")])
    assert findings.tally(ledger.load(ledger.FRESH)) == (
        "The papers' claims (2): 1 supported, 1 not run. Guarantees by construction (1): 1 not run."
    )


def test_a_negative_number_has_a_minus_sign(house):
    measure(mean=-2.0, low=-2.7, high=-1.3)
    (found,) = ledger.load(ledger.FRESH)
    assert findings.measured(found) == "−2.00 points [−2.70, −1.30]"


def test_readme_table_is_replaced_between_its_markers(house):
    measure()
    ledger.accept(["toy"], {})
    text = pages.readme_with_table("a\n<!-- claims -->\nold\n<!-- /claims -->\nb\n")
    assert "old" not in text
    assert text.startswith("a\n<!-- claims -->\nThe papers' claims (1): 1 supported.\n\n| claim |")
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
        assert claim.judgement.why
        assert claim.record["setting"]
        assert json.dumps(claim.record["environment"])
