"""What a page says of itself to search engines, citation managers and link previews, out of CITATION.cff and the
bibliography.

Addresses that must be whole (canonical, site map) are written where CITATION.cff names the site's `url`.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import yaml
from bs4 import BeautifulSoup
from matplotlib.figure import Figure
from pybtex.database import Entry, parse_file
from pybtex.richtext import Text

from palimpsest.publish import citation

CARD = "_static/card.png"
CITED = re.compile(r"\{cite(?::\w+)?\}`([^`]+)`")
SHORTEST, LONGEST = 60, 200
"""Characters of a description."""


@dataclass(frozen=True)
class Book:
    """The whole that each page is part of."""

    citation: dict
    """CITATION.cff."""
    entries: dict[str, Entry]
    """The bibliography, by key."""
    year: str

    @property
    def title(self) -> str:
        return self.citation["title"].partition(":")[0]

    @property
    def subtitle(self) -> str:
        text = self.citation["title"].partition(": ")[2]
        return text[:1].upper() + text[1:]

    @property
    def authors(self) -> list[str]:
        return citation.authors(self.citation)

    @property
    def base(self) -> str:
        """The address of the site with a slash at its end, or nothing."""
        return self.citation["url"].rstrip("/") + "/" if "url" in self.citation else ""


def read(root: Path) -> Book:
    """The book in the checkout `root`."""
    config = yaml.safe_load((root / "book" / "_config.yml").read_text(encoding="utf-8"))
    entries = parse_file(root / "book" / "references.bib").entries
    return Book(citation.read(root), dict(entries), config["copyright"])


def cited(source: str) -> list[str]:
    """The keys that `source`, a page's MyST text, cites, each once, in order."""
    return list(dict.fromkeys(key.strip() for group in CITED.findall(source) for key in group.split(",")))


def describe(page: BeautifulSoup, name: str, keys: list[str], book: Book) -> None:
    """Fill the head of `page`, in place. `name` is its path in the site, `keys` the entries that it cites.

    Raises `KeyError` for a key that the bibliography does not have. Formulas must not be set yet.
    """
    heading = page.select_one("article h1, main h1")
    title = heading.get_text().rstrip("#").strip() if heading and name != "index.html" else book.title
    about = _description(page) or book.subtitle
    facts = {"description": about}
    if name != "404.html":
        facts |= {
            "citation_title": title,
            "citation_author": book.authors,
            "citation_publication_date": book.year,
            "citation_language": "en",
            "citation_reference": [_reference(book.entries[key]) for key in keys],
        }
    if name != "index.html":
        facts["citation_inbook_title"] = book.citation["title"]
    for key, values in facts.items():
        for value in [values] if isinstance(values, str) else values:
            page.head.append(page.new_tag("meta", attrs={"name": key, "content": value}))
    card = book.base + "../" * (0 if book.base else name.count("/")) + CARD
    shown = {"title": title, "description": about, "site_name": book.title, "image": card, "image:alt": book.subtitle}
    shown["type"] = "book" if name == "index.html" else "article"
    if book.base:
        shown["url"] = book.base + name
        page.head.append(page.new_tag("link", attrs={"rel": "canonical", "href": book.base + name}))
    for key, value in shown.items():
        page.head.append(page.new_tag("meta", attrs={"property": f"og:{key}", "content": value}))
    page.head.append(page.new_tag("meta", attrs={"name": "twitter:card", "content": "summary_large_image"}))
    if book.base and name == "404.html":  # it is shown in the place of pages of any folder
        page.head.insert(0, page.new_tag("base", attrs={"href": book.base}))
    data = page.new_tag("script", attrs={"type": "application/ld+json"})
    data.string = json.dumps(_linked(title, about, name, keys, book), ensure_ascii=False).replace("</", r"<\/")
    page.head.append(data)


def _description(page: BeautifulSoup) -> str:
    """The first paragraph of running text without a formula, cut at a word."""
    for paragraph in page.select("article p:not(td p, .admonition p, .citation p, details p, figure p)"):
        text = " ".join(paragraph.get_text().split())
        if len(text) >= SHORTEST and not paragraph.select_one(".math"):
            return text if len(text) <= LONGEST else text[: LONGEST - 1].rpartition(" ")[0].rstrip(",;:") + "…"
    return ""


def _linked(title: str, about: str, name: str, keys: list[str], book: Book) -> dict:
    """The page in the words of schema.org."""
    whole = {
        "@type": "Book",
        "name": book.citation["title"],
        "author": [{"@type": "Organization", "name": author} for author in book.authors],
        "version": book.citation["version"],
        "license": [citation.SPDX + licence for licence in book.citation["license"]],
        "keywords": book.citation["keywords"],
        "datePublished": book.year,
        "inLanguage": "en",
    }
    if book.base:
        whole["url"] = book.base
    page = whole
    if name != "index.html":
        kind = "Chapter" if name.startswith("notebooks/") else "WebPage"
        page = {"@type": kind, "name": title, "isPartOf": whole}
    works = [_work(book.entries[key]) for key in keys]
    return {"@context": "https://schema.org", **page, "description": about} | ({"citation": works} if works else {})


def _plain(latex: str) -> str:
    return Text.from_latex(latex).render_as("text")


def _names(entry: Entry) -> list[str]:
    people = [[*p.first_names, *p.middle_names, *p.prelast_names, *p.last_names] for p in entry.persons["author"]]
    return [_plain(" ".join(parts)) for parts in people if parts != ["others"]]


def _work(entry: Entry) -> dict:
    work = {"@type": "ScholarlyArticle", "name": _plain(entry.fields["title"]), "author": _names(entry)}
    if "year" in entry.fields:
        work["datePublished"] = entry.fields["year"]
    if "eprint" in entry.fields:
        work["url"] = f"https://arxiv.org/abs/{entry.fields['eprint']}"
    return work


def _reference(entry: Entry) -> str:
    """A cited work in the form that citation indexes read."""
    parts = {"citation_title": [_plain(entry.fields["title"])], "citation_author": _names(entry)}
    for field, key in (
        ("year", "citation_publication_date"),
        ("eprint", "citation_arxiv_id"),
        ("doi", "citation_doi"),
    ):
        parts[key] = [entry.fields[field]] if field in entry.fields else []
    return "; ".join(f"{key}={value}" for key, values in parts.items() for value in values)


def write_site_map(html_dir: Path, book: Book) -> None:
    """`sitemap.xml` over the pages that are to be found."""
    names = sorted(path.relative_to(html_dir).as_posix() for path in html_dir.rglob("*.html"))
    rows = [f"<url><loc>{book.base}{name}</loc></url>" for name in names if name not in ("404.html", "search.html")]
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'
    (html_dir / "sitemap.xml").write_text("\n".join([head, *rows, "</urlset>\n"]), encoding="utf-8")


def draw_card(path: Path, book: Book) -> None:
    """The picture of 1200 × 630 pixels that previews show: the title, written over the papers' titles."""
    figure = Figure(figsize=(12, 6.3), dpi=100, facecolor="#fdf8ec")
    titles = "  ·  ".join(reference["title"] for reference in book.citation["references"])
    for line in range(14):
        start = 43 * line % len(titles)
        figure.text(-0.01, 0.95 - 0.07 * line, (titles * 2)[start : start + 130], size=19, color="#ecdfc4")
    figure.text(0.06, 0.56, book.title, size=76, color="#2b2118", weight="bold")
    figure.text(0.063, 0.49, fill(book.subtitle, 48), size=26, color="#2b2118", va="top", linespacing=1.4)
    figure.text(0.063, 0.12, ", ".join(book.authors), size=20, color="#005b8f")
    figure.savefig(path, metadata={"Software": None})
