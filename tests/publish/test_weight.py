"""What no page uses goes; what one uses stays."""

import pytest
from bs4 import BeautifulSoup

from palimpsest.publish import stylesheets, weight

WORDS = {"used", "top", "spin"}


@pytest.mark.parametrize(
    ("css", "left"),
    [
        (".used{color:red}", ".used{color:red}"),
        (".gone{color:red}", ""),
        (".gone,.used > p{color:red}", ".used > p{color:red}"),
        (".used.gone{color:red}", ""),
        ("#top a:not(.gone){color:red}", "#top a:not(.gone){color:red}"),
        ("#gone{color:red}", ""),
        ("p{margin:.5em #fff}", "p{margin:.5em #fff}"),
        ("@media print{.gone{a:b}}", ""),
        ("@media print{.used{a:b}.gone{a:b}}", "@media print{.used{a:b}}"),
        ('@import "basic.css";', '@import "basic.css";'),
        (
            "@keyframes fade{to{opacity:0}}.used{animation:fade 1s}",
            "@keyframes fade{to{opacity:0}}.used{animation:fade 1s}",
        ),
        ("@keyframes fade{to{opacity:0}}.gone{animation:fade 1s}", ""),
    ],
)
def test_rules_of_unused_classes_go(css, left):
    assert stylesheets.used(css, WORDS).replace("\n", "") == left


HEAD = """<script src="_static/katex.min.js?v=1"></script><script src="_static/copybutton.js"></script>
<link rel="stylesheet" href="_static/katex/katex.min.css"><link rel="stylesheet" href="_static/katex/katex.min.css">
<link rel="preload" as="script" href="_static/theme.js"><script src="_static/theme.js"></script>"""


def loaded(body: str) -> list[str]:
    page = BeautifulSoup(HEAD + body, "html.parser")
    weight.lighten_page(page)
    return [(tag.get("src") or tag["href"]).rpartition("/")[2] for tag in page.select("script, link")]


def test_a_page_loads_what_it_has_a_use_for_once():
    assert loaded("<p>text</p>") == ["theme.js"]
    assert loaded('<span class="math"></span>') == ["katex.min.css", "theme.js"]
    assert loaded('<div class="highlight"></div>') == ["copybutton.js", "theme.js"]


def test_menus_and_titles_need_no_script():
    page = BeautifulSoup(
        '<div class="dropdown"><button class="btn" type="button" data-bs-toggle="dropdown">Go</button><ul></ul></div>'
        '<button data-bs-toggle="tooltip" data-bs-title="Color mode"></button><button id="pst-back-to-top"></button>',
        "html.parser",
    )
    weight.lighten_page(page)
    assert str(page) == (
        '<details class="dropdown"><summary class="btn">Go</summary><ul></ul></details>'
        '<button title="Color mode"></button>'
    )


def test_figures_wait_and_blanks_have_no_marks():
    page = BeautifulSoup(
        '<article><img src="a.svg"/></article><div class="highlight"><pre><span></span><span class="n">a</span>'
        '<span class="w"> </span><span class="k">b</span></pre></div>',
        "html.parser",
    )
    weight.lighten_page(page)
    assert page.img["loading"] == "lazy"
    assert str(page.pre) == '<pre>a <span class="k">b</span></pre>'


def test_custom_properties_that_nothing_reads_go():
    css = ':root{--a:1px;--b:var(--c);--c:url("x;y");--d:2;color:red}@media print{p{--a:0;--e:1}}'
    left = stylesheets.without_unread({"own.css": css}, ["margin:var( --a)", "set('--d')"])["own.css"]
    assert left == ":root{--a:1px;--d:2;color:red}@media print{p{--a:0}}"
