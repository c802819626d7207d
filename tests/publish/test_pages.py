"""What the ledger says on the front page, on the first screen of a chapter and on the page of all claims."""

import csv
import io
import re
from dataclasses import replace

import pytest
import yaml

from palimpsest import claims_figure, findings, ledger
from palimpsest.chapters.shared import page
from palimpsest.metrics.statistics import Estimate
from palimpsest.papers import CHAPTERS, PAPERS
from palimpsest.publish import cards, front, machines, pages
from palimpsest.runs.paths import ROOT
from palimpsest.verdicts import Quantity

CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
TITLES = {reference["url"].rpartition("/")[2]: reference["title"] for reference in CITATION["references"]}
BIBLIOGRAPHY = re.sub("[{}]", "", (ROOT / "book" / "references.bib").read_text(encoding="utf-8"))
ABOVE = Quantity("more minus less", "points", "above", 0.5, 1.0)
BELOW, WITHIN = replace(ABOVE, wants="below"), replace(ABOVE, wants="within")
MEASURED = Estimate(mean=2.0, sd=1.0, n=9, low=1.0, high=4.0, p=0.01)


@pytest.fixture(scope="module")
def claims():
    return ledger.load()


@pytest.mark.parametrize(
    ("quantity", "margins"), [(ABOVE, (2.0, 0.0, 6.0)), (BELOW, (-2.0, -6.0, 0.0)), (WITHIN, (-1.0, -5.0, 1.0))]
)
def test_right_is_what_the_paper_says_in_margins(quantity, margins):
    assert claims_figure.toward(quantity, MEASURED) == pytest.approx(margins)


def test_an_interval_around_the_bar_reaches_the_middle_of_the_margin():
    assert claims_figure.toward(WITHIN, replace(MEASURED, mean=1.2, low=0.9, high=1.4))[2] == 1.0
    with pytest.raises(ValueError, match=r"quantity: got .*, a count"):
        claims_figure.toward(replace(ABOVE, wants="zero", margin=0.0), MEASURED)


def test_places_run_from_edge_to_edge_and_stay_there():
    assert [claims_figure.place(m) for m in (-99, -15, 0, 15, 99)] == [
        "0.00%",
        "0.00%",
        "50.00%",
        "100.00%",
        "100.00%",
    ]


def test_every_claim_has_a_row_that_leads_to_its_card(claims):
    figure, all_cards = claims_figure.figure(claims, "what_held.html", "notebooks/"), cards.cards(claims)
    for claim in claims:
        assert f'href="what_held.html#{claim.id}"' in figure
        assert f"({claim.id})=" in all_cards
    assert "\n\n" not in figure  # Markdown would end the block there
    assert figure.count("†</sup>") == sum(not claims_figure.alone(claim) for claim in claims)


@pytest.mark.parametrize("stem", PAPERS)
def test_a_chapter_begins_with_its_paper_s_title_and_what_held(stem, claims):
    paper = PAPERS[stem]
    source = (ROOT / "notebooks" / f"{paper.chapter}.py").read_text(encoding="utf-8")
    assert f"# *{TITLES[paper.arxiv]}*\n" in source
    assert f'page.opening("{stem}")' in source
    assert f"title = {TITLES[paper.arxiv]}," in BIBLIOGRAPHY
    shown = page.opening(stem).data
    own = [claim for claim in claims if ledger.file_of(claim) == stem]
    assert all(f"what_held.html#{claim.id}" in shown for claim in own)
    assert shown.count("<li ") == len(own)


def test_the_neighbours_chapter_begins_with_what_held_of_our_claims(claims):
    own = findings.of(claims, "neighbours")
    assert {claim.by for claim in own} == {"ours"}
    assert 'page.opening("neighbours")' in (ROOT / "notebooks" / "06_neighbours.py").read_text(encoding="utf-8")
    shown = page.opening("neighbours").data
    assert f"Claims of ours ({len(own)}): " in shown
    assert shown.count("<li ") == len(own)


def test_a_passage_of_a_chapter_holds_what_was_accepted(claims):
    (first, *_) = claims
    shown = page.passage(f"<so> [[{first.id} {first.verdict}]].").data
    assert f'&lt;so&gt; (<a href="../what_held.html#{first.id}">' in shown
    assert findings.measured(first) in shown
    with pytest.raises(ValueError, match="write that passage again"):
        page.passage(f"[[{first.id} not run]]")


def test_an_unknown_paper_has_no_first_screen():
    with pytest.raises(ValueError, match="paper: got 'another', want one of"):
        page.opening("another")


def test_a_page_that_judges_nothing_says_what_was_found(claims):
    (one, another, *_) = claims
    shown = page.found(one.id, another.id).data
    assert shown.count("<li>") == 2
    for claim in (one, another):
        assert f'{findings.MARK[claim.verdict]} <a href="../what_held.html#{claim.id}">' in shown
        assert findings.SAID[claim.verdict][0] in shown
        assert findings.measured(claim) in shown
    with pytest.raises(ValueError, match="names: got 'another-paper', want some of"):
        page.found("another-paper")


def test_sentences_count_what_they_say(claims):
    (one, *_), papers = claims, [claim for claim in claims if claim.by == "paper"]
    assert findings.listed(["a"]) == "a"
    assert findings.listed(["a", "b", "c"]) == "a, b and c"
    said = findings.held(claims, "the five papers’")
    assert said.startswith(f"Of the five papers’ {len(papers)} claims ")
    for verdict, (_, several) in findings.SAID.items():
        if (n := sum(claim.verdict == verdict for claim in papers)) > 1:
            assert f"{n} {several}" in said
    with pytest.raises(ValueError, match="want at least one by a paper"):
        findings.held([replace(one, by="ours")], "the paper’s")


def test_the_front_page_names_each_paper_and_leads_to_its_chapter(claims):
    shown = front.cards(claims)
    for paper in PAPERS.values():
        assert f"{TITLES[paper.arxiv]} <notebooks/{paper.chapter}>`" in shown
        assert f"{{doc}}`{paper.name}: " in shown
    assert CITATION["version"] in front.facts()
    assert "<notebooks/09_ten_minutes>`" in front.doors(claims)


def test_a_passage_that_is_no_longer_true_is_refused(claims):
    (first, *_) = claims
    assert findings.measured(first) in pages.fill(f"So it is [[{first.id} {first.verdict}]].", claims)
    with pytest.raises(ValueError, match=f"{first.id} is {first.verdict}; write that passage again"):
        pages.fill(f"[[{first.id} not run]]", claims)
    with pytest.raises(ValueError, match=r"place: got \[\[nothing\]\], want a claim"):
        pages.fill("[[nothing]]", claims)


def test_the_pages_written_by_hand_are_true(claims):
    for name in pages.FILLED:
        assert "[[" not in pages.fill((ROOT / "book" / name).read_text(encoding="utf-8"), claims)


def test_minutes_of_the_ways_in_are_those_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(machines.paths, "DATA", tmp_path)
    assert machines.doors().startswith("Not measured")
    file = tmp_path / "bench" / "own_model.cpu.csv"
    file.parent.mkdir()
    file.write_text("door,on,cpu_seconds,processor,torch,commit,date\nselect,pictures,90,a chip,2,abc,2026-01-02\n")
    monkeypatch.setattr(machines.manifest, "verify", lambda name: tmp_path / name)
    head, _, *table = machines.doors().splitlines()
    assert "one core (a chip); commit `abc`, 2026-01-02" in head
    assert table[2:] == ["| select | pictures | 1.50 |"]


def test_the_table_to_download_has_every_claim_in_full(claims):
    rows = {row["id"]: row for row in csv.DictReader(io.StringIO(cards.table(claims)))}
    assert list(rows) == [claim.id for claim in claims]
    for claim in claims:
        if claim.judgement:
            assert float(rows[claim.id]["mean"]) == claim.judgement.measured.mean


def test_filters_count_cards(claims):
    shown = cards.filters(claims)
    assert f'href="#only-all">all ({len(claims)})' in shown
    for stem, chapter in CHAPTERS.items():
        assert f"{chapter.name} ({len(findings.of(claims, stem))})" in shown
        assert f"#only-{stem}:target" in (ROOT / "book" / "_static" / "claims.css").read_text(encoding="utf-8")
