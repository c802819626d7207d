"""What scrolls takes the keyboard's focus, and what opens is called by the words on it."""

from bs4 import BeautifulSoup

from palimpsest.publish import access

PAGE = """<article><details><summary aria-label="Toggle">Show code</summary></details>
<summary aria-label="Menu"></summary>
<button class="search-button-field" aria-label="Search">Search this book</button>
<div class="math"><span class="katex-display">x</span></div><div class="highlight"><pre>a</pre></div>
<table><caption>Times #</caption></table><table><tr><td><table class="inner"></table></td></tr></table></article>"""


def test_what_scrolls_takes_focus_and_what_opens_says_what_it_shows():
    page = BeautifulSoup(PAGE, "html.parser")
    access.open_up(page)
    focus = [(tag.name, tag["role"], tag["aria-label"]) for tag in page.select("[tabindex='0']")]
    assert sorted(focus) == [
        ("div", "region", "Table 2"),
        ("div", "region", "Times"),
        ("pre", "group", "Listing"),
        ("span", "group", "Formula"),
    ]
    assert [tag.get("aria-label") for tag in page.select("summary, button")] == [None, "Menu", None]
    assert page.select_one(".inner").parent.name == "td"
