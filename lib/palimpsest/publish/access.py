"""Make a page usable by keyboard and by ear: what scrolls takes focus, and what opens says its own name."""

from bs4 import BeautifulSoup, Tag

SCROLLING = {"div.math > .katex-display": "Formula", "div.highlight > pre": "Listing", ".output > pre": "Output"}
"""What may be wider than the screen, and what it is called by those who cannot see it."""


def open_up(page: BeautifulSoup) -> None:
    """Rewrite `page`, in place. Formulas must be set."""
    # These labels hide the words that stand there: "Show code cell source", "Search this book".
    for named in page.select("summary[aria-label], button.search-button-field[aria-label]"):
        if named.get_text(strip=True):
            del named["aria-label"]
    for wanted, name in SCROLLING.items():
        for tag in page.select(wanted):
            tag.attrs |= {"tabindex": "0", "role": "group", "aria-label": name}
    for number, table in enumerate(page.select("article table:not(.field-list, table table)"), 1):
        box = page.new_tag("div", attrs={"class": "scrolls", "tabindex": "0", "role": "region"})
        box["aria-label"] = _called(table) or f"Table {number}"
        table.wrap(box)


def _called(table: Tag) -> str:
    """What a table's caption says."""
    return " ".join(table.caption.get_text().rstrip("#").split()) if table.caption else ""
