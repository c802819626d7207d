"""Formulas are set by the site's own KaTeX, in place."""

import re
from importlib import resources

import pytest
from bs4 import BeautifulSoup

from palimpsest.publish.formulas import Typesetter


@pytest.fixture(scope="module")
def katex():
    return Typesetter(resources.files("sphinxcontrib") / "katex.min.js")


def test_inline_and_displayed_formulas_are_set(katex):
    page = BeautifulSoup(
        r'<head></head><p>x <span class="math notranslate">\(J \le \ln 2\)</span> y</p>'
        r'<div class="math" id="eq"><span class="eqno">(1)<a href="#eq">#</a></span>\[\frac{a}{b}\]</div>',
        "html.parser",
    )
    assert katex.typeset(page) == []
    inline, displayed = page.select(".math")
    assert inline.select_one("annotation").text == r"J \le \ln 2"
    assert inline.select_one(".katex-display") is None
    assert [child.get("class") for child in displayed.find_all(recursive=False)] == [["eqno"], ["katex-display"]]
    assert r"\[" not in page.get_text()
    assert not page.select("[style]")
    assert ".katex .k0.k0.k0{" in page.head.style.string


@pytest.mark.parametrize(
    ("markup", "problem"),
    [
        (r'<span class="math">\(\nothing\)</span>', r"ParseError: .*Undefined control sequence: \\nothing"),
        (r'<div class="math">\begin{align}a\end{align}</div>', "formula without delimiters"),
    ],
)
def test_what_cannot_be_read_is_named_and_left(katex, markup, problem):
    page = BeautifulSoup(markup, "html.parser")
    (found,) = katex.typeset(page)
    assert re.match(problem, found), found
    assert str(page) == markup
