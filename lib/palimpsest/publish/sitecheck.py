"""Read a built site as a browser would, and list what is wrong with it."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup, Tag

FOREIGN = re.compile(r"\s*(?:https?:|wss?:)?//", re.IGNORECASE)
CSS_FOREIGN = re.compile(r"(?:url\(\s*|@import\s+)['\"]?\s*(?:https?:)?//[^\s'\")]+", re.IGNORECASE)
# A script asks another host by a call, by setting `src`, or by holding the address of something to load.
JS_FOREIGN = re.compile(
    r"(?:fetch|import|importScripts|WebSocket|EventSource)\(\s*['\"`](?:https?|wss?):[^'\"`]+"
    r"|import\s[^;'\"`]*['\"`]https?:[^'\"`]+"
    r"|\.src\s*=\s*['\"`]https?:[^'\"`]+"
    r"|['\"`]https?://[^'\"`\s]+\.(?:m?js|css|woff2?|json|wasm)['\"`]",
    re.IGNORECASE,
)
LOADING = {"src", "srcset", "poster", "data", "background", "action"}
LINK_ONLY = {"canonical", "license", "author", "next", "prev", "search", "index"}
RAW_TEX = re.compile(r"\$\$|\\\(|\\\[|\$[^$\n]*\\[A-Za-z]+[^$\n]*\$")
HEAD = {
    "description": "meta[name=description]",
    "title for previews": 'meta[property="og:title"]',
    "picture for previews": 'meta[property="og:image"]',
    "linked data": 'script[type="application/ld+json"]',
    "icon": "link[rel~=icon]",
}
VERBATIM = ["script", "style", "pre", "code", "textarea"]
WHOLE = 700_000
"""Bytes of a page with its scripts, styles and pictures, those that wait too. Fonts come on top: which of them a
browser asks for depends on what it draws, up to 90 kB on the pages with most formulas."""
ASKING = {"script": JS_FOREIGN, "style": CSS_FOREIGN}


class _Page:
    """What one page holds: ids, links, loads, images without text, search fields, raw TeX, bytes to open it."""

    def __init__(self, text: str):
        tree = BeautifulSoup(text, "html.parser", multi_valued_attributes=None)
        tags = tree.find_all(True)
        self.ids = {tag[name] for tag in tags for name in ("id", "name") if tag.get(name)}
        self.links = [tag["href"] for tag in tags if tag.name == "a" and tag.has_attr("href")]
        self.no_alt = [
            tag.get("src", "")[:80] for tag in tags if tag.name == "img" and not tag.get("alt", "").strip()
        ]
        self.searches = sum(map(_is_search_field, tags))
        loads = [address for tag in tags for address in _loads(tag)]
        self.local = [address for address in loads if not FOREIGN.match(address)]
        self.foreign = [address for address in loads if FOREIGN.match(address)]
        for tag in tags:
            self.foreign += CSS_FOREIGN.findall(tag.get("style", ""))
            if tag.name in ASKING:
                self.foreign += ASKING[tag.name].findall(tag.get_text())
        self.lacking = [what for what, wanted in HEAD.items() if not tree.select_one(wanted)]
        formulas = [tag for tag in tags if _is_formula(tag)]
        self.not_set = [tag.get_text() for tag in formulas if tag.find(class_="katex") is None]
        for tag in (*formulas, *tree.find_all(VERBATIM)):
            tag.clear()
        self.raw_tex = RAW_TEX.findall(" ".join(tree.find_all(string=True)))


def _is_formula(tag: Tag) -> bool:
    return tag.name in ("span", "div") and "math" in tag.get("class", "").split()


def _is_search_field(tag: Tag) -> bool:
    """A field to type in, or the theme's button in the shape of one that opens the search dialog."""
    if tag.name == "button":
        return "search-button-field" in tag.get("class", "").split()
    return tag.name == "input" and tag.get("type") == "search" and tag.find_parent("dialog") is None


def _loads(tag: Tag) -> list[str]:
    """The addresses that a browser asks for on meeting `tag`."""
    if tag.name == "link" and set(tag.get("rel", "").split()) <= LINK_ONLY:
        return []
    names = LOADING | {"href"} if tag.name in ("link", "use", "image") else LOADING
    parts = [
        part
        for name in names & tag.attrs.keys()
        for part in (tag[name].split(",") if name == "srcset" else [tag[name]])
    ]
    return [part.split()[0] for part in parts if part.strip()]


def check(html_dir: Path) -> list[str]:
    """Findings about the site in `html_dir`, one line each, sorted; an empty list means that all is well.

    A page must ask no other host for anything when it is opened (links that a reader follows are free), have
    one search field, give every image alternative text, leave no formula unset, name no link, anchor or file that
    is not there, have what `HEAD` lists, and weigh at most `WHOLE` bytes.
    """
    pages = {path.resolve(): _Page(_read(path)) for path in sorted(html_dir.rglob("*.html"))}
    if not pages:
        raise ValueError(f"html_dir: {html_dir} holds no page; a folder with a built site is wanted")
    found: list[str] = []
    for path, page in pages.items():
        name = path.relative_to(html_dir.resolve()).as_posix()
        found += [f"{name}: asks another host: {address}" for address in page.foreign]
        found += [f"{name}: image without alternative text: {source}" for source in page.no_alt]
        found += [f"{name}: TeX outside a formula: {text}" for text in page.raw_tex]
        found += [f"{name}: formula that was not set: {text}" for text in page.not_set]
        weight = sum(file.stat().st_size for file in _opened(path, page))
        if weight > WHOLE:
            found.append(
                f"{name}: {weight / 1e3:.0f} kB with all that it loads; at most {WHOLE / 1e3:.0f} kB are wanted"
            )
        found += [f"{name}: no {what} in its head" for what in page.lacking]
        if page.searches != 1:
            found.append(f"{name}: {page.searches} search fields; one is wanted")
        found += [f"{name}: {problem}" for problem in _unresolved(path, page, pages)]
    for path in sorted(html_dir.rglob("*.css")):
        found += [f"{path.name}: asks another host: {text}" for text in CSS_FOREIGN.findall(_read(path))]
    for path in sorted(html_dir.rglob("*.js")):
        if path.name != "searchindex.js":
            found += [f"{path.name}: asks another host: {text}" for text in JS_FOREIGN.findall(_read(path))]
    return sorted(set(found))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _opened(path: Path, page: _Page) -> set[Path]:
    """The files of the site that a browser fetches for a page, fonts aside."""
    named = {(path.parent / unquote(urlsplit(address).path)).resolve() for address in page.local}
    return {path} | {file for file in named if file.is_file()}


def _unresolved(path: Path, page: _Page, pages: dict[Path, _Page]) -> list[str]:
    """Links and files of a page that lead nowhere."""
    problems = []
    for address in page.links + page.local:
        parts = urlsplit(address)
        if parts.scheme or parts.netloc or not (parts.path or parts.fragment):
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if not target.exists():
            problems.append(f"nothing at {address}")
        elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
            problems.append(f"no such anchor: {address}")
    return problems
