"""Take out of a built site what none of its pages uses: scripts, style rules, glyphs of the icon font, files."""

import re
from pathlib import Path

from bs4 import BeautifulSoup
from fontTools import subset
from fontTools.ttLib import TTFont

from palimpsest.publish import stylesheets
from palimpsest.publish.stylesheets import WORD

NEEDED_BY = {
    "katex.min.css": ".math",
    "katex-math": ".math",
    "clipboard": "div.highlight",
    "copybutton": "div.highlight",
    "togglebutton": ".toggle, .admonition.dropdown",
    "design-tabs": ".sd-tab-set",
    "sphinx-design": "[class*=sd-]",
    "mystnb": ".cell, .output",
    "proof": ".proof",
    "exercise": ".exercise, .solution",
    "searchtools": "#search-results",
    "language_data": "#search-results",
    "searchindex": "#search-results",
    "katex.min.js": "no-page",  # formulas are set
    "auto-render": "no-page",
    "katex_autorenderer": "no-page",
    "fontawesome": "no-page",  # draws what the icon font draws, and weighs more than all else
    "bootstrap": "no-page",  # see `_without_bootstrap`
}
"""What a page must have for a script or stylesheet whose name begins so to be of use to it."""
LEFTOVERS = (".buildinfo", "_static/*webpack-macros.html", "_static/**/*.map", "_static/**/*.LICENSE.txt")
"""No part of a site: Sphinx's note to itself, the themes' page templates, maps for the debuggers of scripts."""
ICONS = "fa-solid-900"
PRIVATE = re.compile("[\ue000-\uf8ff]")
"""Unicode's private area, where a font of icons has its glyphs."""
PLAIN = ".highlight :is(span.w, span.n, span.p, span:not([class], [id]))"
"""Marks of code that give no colour: blanks, names, brackets, and what is not known."""


def clear(html_dir: Path) -> None:
    """Remove the `LEFTOVERS` from `html_dir`."""
    for pattern in LEFTOVERS:
        for path in html_dir.glob(pattern):
            path.unlink()


def lighten_page(page: BeautifulSoup) -> None:
    """Remove from `page`, in place, the scripts and stylesheets that it has no use for and the marks of its blanks,
    and have its figures wait until a reader comes near."""
    _without_bootstrap(page)
    seen = set()
    for again in page.select("meta[name=viewport]")[1:]:
        again.decompose()
    for image in page.select("article img"):
        image["loading"] = "lazy"
    for token in page.select(PLAIN):
        token.unwrap()
    for tag in page.select("script[src], link[href]:is([rel~=stylesheet], [rel~=preload])"):
        address = tag.get("src") or tag["href"]
        name = address.partition("?")[0].rpartition("/")[2]
        useless = any(name.startswith(head) and not page.select_one(wanted) for head, wanted in NEEDED_BY.items())
        if useless or (tag.name, address) in seen or "preload" in tag.get("rel", ""):
            tag.decompose()
        seen.add((tag.name, address))


def _without_bootstrap(page: BeautifulSoup) -> None:
    """Have the browser do what the theme asks a script of 80 kB to do: open a menu, show a title on hovering."""
    for menu in page.select("div.dropdown:has(> button)"):
        menu.name = "details"
        menu.button.name = "summary"
        for name in ("type", "data-bs-toggle", "aria-expanded"):
            del menu.summary[name]
    for tag in page.select("[data-bs-toggle=tooltip]"):
        tag["title"] = tag.get("title") or tag["data-bs-title"]
        for name in ("data-bs-toggle", "data-bs-placement", "data-bs-title"):
            del tag[name]
    for button in page.select("#pst-back-to-top"):
        button.decompose()


def lighten_site(html_dir: Path) -> None:
    """Remove from `html_dir` the files that no page names, and from its styles and icons what no page uses.

    The pages themselves must be in their last form.
    """
    pages, styles, scripts = (_texts(html_dir, pattern) for pattern in ("*.html", "*.css", "*.js"))
    for path in (*styles, *scripts):
        if not any(path.name in text for text in (*pages.values(), *styles.values())):
            path.unlink()
    others = [*pages.values(), *_texts(html_dir, "*.js").values()]
    words = {word for text in others for word in WORD.findall(text)}
    styles = {path: stylesheets.used(css, words) for path, css in _texts(html_dir, "*.css").items()}
    for path, css in stylesheets.without_unread(styles, others).items():
        path.write_text(css, encoding="utf-8")
    _shrink_icons(html_dir)


def _texts(html_dir: Path, pattern: str) -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in sorted(html_dir.rglob(pattern))}


def _shrink_icons(html_dir: Path) -> None:
    """Cut the icon font down to the glyphs that the styles name, and drop its sister fonts."""
    folder = html_dir / "_static" / "vendor" / "fontawesome" / "webfonts"
    styles = _texts(html_dir, "_static/styles/*.css")
    font = TTFont(folder / f"{ICONS}.ttf", recalcTimestamp=False)  # else each build gives another file
    cutter = subset.Subsetter()
    cutter.populate(text="".join(PRIVATE.findall("".join(styles.values()))))
    cutter.subset(font)
    font.flavor = "woff"
    for path in folder.iterdir():
        path.unlink()
    font.save(folder / f"{ICONS}.woff")
    for path, css in styles.items():
        path.write_text(_one_face(css), encoding="utf-8")


def _one_face(css: str) -> str:
    """`css` with one font of icons, in the one form that is left of it."""

    def face(match: re.Match) -> str:
        if "fontawesome" not in match[0]:
            return match[0]
        source = f'url(../vendor/fontawesome/webfonts/{ICONS}.woff) format("woff")'
        return re.sub(r"src:[^;}]*", f"src:{source}", match[0]) if ICONS in match[0] else ""

    return re.sub(r"@font-face\s*\{[^}]*\}", face, css)
