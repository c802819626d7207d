"""The book's sources agree with each other, with the citation file and with the package."""

import re
import tomllib

import pytest
import yaml

import palimpsest
from palimpsest.publish.gates import CLAIM_TAG, parameters_of, source_of
from palimpsest.publish.site import BOOK, chapters
from palimpsest.runs.paths import ROOT

PAGES = sorted(BOOK.glob("*.md")) + sorted((ROOT / "notebooks").glob("*.py"))
BIB = (BOOK / "references.bib").read_text(encoding="utf-8")
KEYS = re.findall(r"^@\w+\{([^,]+),", BIB, re.MULTILINE)
PAPERS = ("2407.00362", "2503.13917", "2602.00567", "2602.00577", "2602.00523")
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_keys_are_unique():
    assert len(KEYS) == len(set(KEYS)) > 0


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_pages_cite_only_known_keys(page):
    cited = re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", page.read_text(encoding="utf-8"))
    assert {key.strip() for group in cited for key in group.split(",")} <= set(KEYS)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_formulas_use_no_macros(page):
    # JupyterLab and the site would each need their own definition of a macro.
    assert not re.search(r"\\(?:newcommand|renewcommand|def|DeclareMathOperator)\b", page.read_text("utf-8"))


def test_every_page_of_the_contents_has_a_source():
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text(encoding="utf-8"))
    files = [toc["root"]] + [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    pages = {f"{name}.md" for name in files if not name.startswith("notebooks/")}
    written = {path.name for path in BOOK.glob("*.md")}
    assert pages == written


def test_contents_list_every_chapter():
    assert sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.py")) == sorted(chapters())


@pytest.mark.parametrize("chapter", chapters())
def test_a_page_of_one_size_judges_no_claim(chapter):
    # A verdict belongs to a profile.
    notebook = source_of(chapter)
    tags = [tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])]
    assert "seed" in parameters_of(notebook)
    assert "profile" in parameters_of(notebook) or not any(map(CLAIM_TAG.fullmatch, tags))


def test_the_book_renders_and_never_executes():
    config = yaml.safe_load((BOOK / "_config.yml").read_text(encoding="utf-8"))
    assert config["execute"]["execute_notebooks"] == "off"
    assert config["sphinx"]["config"]["nb_execution_mode"] == "off"


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert CITATION["version"] == project["version"] == palimpsest.__version__
    assert f"version = {{{project['version']}}}" in (BOOK / "how_to_cite.md").read_text(encoding="utf-8")


def test_licences_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == " AND ".join(CITATION["license"])
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")
    assert "Creative Commons Attribution 4.0" in (ROOT / "LICENSE-TEXT").read_text(encoding="utf-8")


@pytest.mark.parametrize("paper", PAPERS)
def test_papers_have_one_title_everywhere(paper):
    (reference,) = [r for r in CITATION["references"] if r["url"].endswith(paper)]
    entry = next(text for text in BIB.split("\n\n") if f"eprint = {{{paper}}}" in text)
    title = re.search(r"^  title = \{(.*)\},$", entry, re.MULTILINE)[1]
    assert title.replace("{", "").replace("}", "") == reference["title"]
