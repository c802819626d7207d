"""The heads of pages say what CITATION.cff, the bibliography and the page itself say."""

import json

import pytest
from bs4 import BeautifulSoup
from PIL import Image

from palimpsest.publish import heads
from palimpsest.runs.paths import ROOT

BODY = """<html><head></head><body><article><h1>A chapter<a href="#">#</a></h1>
<table><tr><td><p>A cell with words enough for it to be taken for a paragraph of text.</p></td></tr></table>
<p>Short.</p><p>Long enough to say what a page is about, but with <span class="math">\\(x\\)</span> in it.</p>
<p>{text}</p></article></body></html>"""
ABOUT = "This paragraph says in some twelve words what the page is about, at length enough."


@pytest.fixture(scope="module")
def book():
    return heads.read(ROOT)


def described(book, name="notebooks/04_jscds.html", keys=("zhang2024jscds",), text=ABOUT) -> BeautifulSoup:
    page = BeautifulSoup(BODY.replace("{text}", text), "html.parser")
    heads.describe(page, name, list(keys), book)
    return page


def meta(page: BeautifulSoup, name: str) -> list[str]:
    return [tag["content"] for tag in page.select(f'meta[name="{name}"], meta[property="{name}"]')]


def test_a_chapter_names_itself_its_book_and_what_it_cites(book):
    page = described(book)
    assert meta(page, "description") == meta(page, "og:description") == [ABOUT]
    assert meta(page, "citation_title") == meta(page, "og:title") == ["A chapter"]
    assert meta(page, "citation_inbook_title") == [book.citation["title"]]
    assert meta(page, "citation_author") == ["The Palimpsest contributors"]
    (reference,) = meta(page, "citation_reference")
    assert reference.startswith("citation_title=JSCDS: A Core Data Selection Method")
    assert "; citation_author=Peiliang Zhang; citation_author=Yujia Tong; " in reference
    assert reference.endswith("; citation_publication_date=2024; citation_arxiv_id=2407.00362")
    said = json.loads(page.select_one('script[type="application/ld+json"]').string)
    assert (said["@type"], said["isPartOf"]["version"]) == ("Chapter", book.citation["version"])
    assert said["citation"][0]["url"] == "https://arxiv.org/abs/2407.00362"


def test_the_front_page_is_the_book(book):
    page = described(book, "index.html", keys=())
    assert meta(page, "og:title") == ["Palimpsest"]
    assert meta(page, "citation_inbook_title") == []
    said = json.loads(page.select_one('script[type="application/ld+json"]').string)
    assert (said["@type"], said["name"]) == ("Book", book.citation["title"])


def test_whole_addresses_need_the_address_of_the_site(book):
    page = described(book)
    assert page.select_one("link[rel=canonical]") is None
    assert meta(page, "og:image") == ["../_static/card.png"]
    known = heads.Book(book.citation | {"url": "https://book.test"}, book.entries, book.year)
    page = described(known)
    assert page.select_one("link[rel=canonical]")["href"] == "https://book.test/notebooks/04_jscds.html"
    assert meta(page, "og:image") == ["https://book.test/_static/card.png"]
    assert described(known, "404.html", keys=()).base["href"] == "https://book.test/"


def test_a_long_paragraph_is_cut_at_a_word(book):
    (about,) = meta(described(book, text="word " * 100), "description")
    assert about == "word " * 38 + "word…"
    assert meta(described(book, text="."), "description") == [book.subtitle]


def test_a_script_cannot_be_ended_by_a_title(book):
    page = described(book, text="</script>".replace("<", "&lt;") + ABOUT)
    assert "</script>" not in page.select_one('script[type="application/ld+json"]').string


def test_an_unknown_key_is_refused(book):
    with pytest.raises(KeyError, match="nobody2000"):
        described(book, keys=["nobody2000"])


def test_keys_are_found_once_in_order():
    assert heads.cited("{cite:p}`b, a` and {cite}`c` and {cite:t}`a`, but `d`") == ["b", "a", "c"]


def test_the_site_map_lists_what_is_to_be_found(book, tmp_path):
    for name in ("index.html", "404.html", "search.html"):
        (tmp_path / name).touch()
    heads.write_site_map(tmp_path, heads.Book(book.citation | {"url": "https://book.test/"}, {}, "2026"))
    text = (tmp_path / "sitemap.xml").read_text()
    assert text.count("<loc>") == 1
    assert "<loc>https://book.test/index.html</loc>" in text


def test_the_card_has_the_size_of_a_preview(book, tmp_path):
    heads.draw_card(tmp_path / "card.png", book)
    assert Image.open(tmp_path / "card.png").size == (1200, 630)
