"""Read a built site as a browser would, and list what is wrong with it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

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
VERBATIM = {"script", "style", "pre", "code", "textarea"}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class _Page(HTMLParser):
    """What one page holds: ids, links, loads, images without text, search fields, formulas, raw TeX."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.local: list[str] = []
        self.foreign: list[str] = []
        self.no_alt: list[str] = []
        self.raw_tex: list[str] = []
        self.formulas: list[str] = []
        self.searches = 0
        self._open: list[tuple[str, bool]] = []  # tag, and whether it is a formula
        self._prose: list[str] = []
        self.feed(text)
        self.close()
        self.raw_tex += RAW_TEX.findall(" ".join(self._prose))

    def handle_starttag(self, tag, attrs):
        attributes = {name: value or "" for name, value in attrs}
        self.ids.update(attributes[name] for name in ("id", "name") if attributes.get(name))
        self._loads(tag, attributes)
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        if tag == "img" and not attributes.get("alt", "").strip():
            self.no_alt.append(attributes.get("src", "")[:80])
        if self._is_search_field(tag, attributes):
            self.searches += 1
        if tag not in VOID:
            formula = tag in ("span", "div") and "math" in attributes.get("class", "").split()
            if formula:
                self.formulas.append("")
            self._open.append((tag, formula))

    def handle_endtag(self, tag):
        while any(name == tag for name, _ in self._open):
            if self._open.pop()[0] == tag:
                break

    def handle_data(self, data):
        names = [name for name, _ in self._open]
        if "script" in names:
            self.foreign += JS_FOREIGN.findall(data)
        elif "style" in names:
            self.foreign += CSS_FOREIGN.findall(data)
        elif any(formula for _, formula in self._open):
            # An equation number is a link or a span inside the formula's box.
            if self._open[-1][1]:
                self.formulas[-1] += data
        elif not VERBATIM & set(names):
            self._prose.append(data)

    def _is_search_field(self, tag: str, attributes: dict[str, str]) -> bool:
        """A field to type in, or the theme's button in the shape of one that opens the search dialog."""
        if tag == "button":
            return "search-button-field" in attributes.get("class", "").split()
        in_dialog = any(name == "dialog" for name, _ in self._open)
        return tag == "input" and attributes.get("type") == "search" and not in_dialog

    def _loads(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "link" and set(attributes.get("rel", "").split()) <= LINK_ONLY:
            return
        names = LOADING | {"href"} if tag in ("link", "use", "image") else LOADING
        for name in names & attributes.keys():
            addresses = attributes[name].split(",") if name == "srcset" else [attributes[name]]
            for address in (part.strip().split(" ")[0] for part in addresses if part.strip()):
                (self.foreign if FOREIGN.match(address) else self.local).append(address)
        self.foreign += CSS_FOREIGN.findall(attributes.get("style", ""))


def check(html_dir: Path) -> list[str]:
    """Findings about the site in `html_dir`, one line each, sorted; an empty list means that all is well.

    A page must ask no other host for anything when it is opened (links that a reader follows are free), have
    one search field, give every image alternative text, leave no TeX outside a formula, and name no link,
    anchor or file that is not there. Where Node is installed, every formula must be one that KaTeX can read.
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
        found += [f"{name}: formula without delimiters: {text}" for text in page.formulas if not _tex(text)]
        if page.searches != 1:
            found.append(f"{name}: {page.searches} search fields; one is wanted")
        found += [f"{name}: {problem}" for problem in _unresolved(path, page, pages)]
    for path in sorted(html_dir.rglob("*.css")):
        found += [f"{path.name}: asks another host: {text}" for text in CSS_FOREIGN.findall(_read(path))]
    for path in sorted(html_dir.rglob("*.js")):
        if path.name != "searchindex.js":
            found += [f"{path.name}: asks another host: {text}" for text in JS_FOREIGN.findall(_read(path))]
    found += _unreadable(html_dir, {_tex(text) for page in pages.values() for text in page.formulas} - {""})
    return sorted(set(found))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _tex(text: str) -> str:
    r"""The formula between its `\(` `\)` or `\[` `\]`, or nothing where it has none and would stay raw."""
    inner = re.fullmatch(r"\\\((.*)\\\)|\\\[(.*)\\\]", text.strip(), re.DOTALL)
    return (inner[1] or inner[2] or "") if inner else ""


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


def _unreadable(html_dir: Path, formulas: set[str]) -> list[str]:
    """Formulas that the site's own KaTeX refuses; needs Node, and says so where there is none."""
    node, katex = shutil.which("node"), html_dir / "_static" / "katex.min.js"
    if not formulas:
        return []
    if node is None:
        print("Node is not installed: the formulas were not parsed (the site does not need it)")
        return []
    script = (
        "const k = require(process.argv[1]); const bad = [];"
        "for (const f of JSON.parse(require('fs').readFileSync(0, 'utf8')))"
        " try { k.renderToString(f, {strict: 'ignore', displayMode: true}) }"
        " catch (e) { bad.push(e.message) }"
        "console.log(JSON.stringify(bad))"
    )
    command = [node, "-e", script, katex.resolve()]
    said = subprocess.check_output(command, input=json.dumps(sorted(formulas)), text=True)
    return [f"KaTeX: {message}" for message in json.loads(said)]
