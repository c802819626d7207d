"""The PDF edition: `python -m palimpsest.publish.pdf` sets the pages of the built site as one book.

Pandoc turns the pages into Typst's language, and Typst sets them: figures as vectors, a bookmark for each heading,
chapters numbered, tables that go on over pages with their heads. Both come with the extra `pdf`. The same site gives
the same bytes.
"""

import os
import re
import shutil
from pathlib import Path

import matplotlib
from bs4 import BeautifulSoup, Tag

from palimpsest.publish import heads, site
from palimpsest.publish.archive import PDF
from palimpsest.runs.paths import BUILD, ROOT

DROPPED = (
    ".headerlink, script, style, button, nav, .toctree-wrapper, summary, details.hide .cell_input, .katex-html, "
    ".axis, .cell_output .widget, input"
)
"""What a page holds for its screen alone, and code that it folds away."""
CHAPTER = re.compile(r"^= ", re.MULTILINE)
MARK = re.compile(r"^\s*=(\s|$)")
"""The mark of no effect at the head of a text, which Typst would read as a heading."""
READER = "html+tex_math_single_backslash-native_divs-native_spans"


def write(html_dir: Path = BUILD / "html", target: Path = BUILD / PDF) -> Path:
    """Set the site in `html_dir` into `target`, and return it.

    Raises `FileNotFoundError` if there is no site, `ImportError` without the extra `pdf`, and `RuntimeError` from
    Typst for what cannot be set.
    """
    names = site.in_order()
    for name in names:
        if not (html_dir / f"{name}.html").is_file():
            raise FileNotFoundError(f"{html_dir / name}.html is missing; run `make book`")
    try:
        import pypandoc
        import typst
    except ImportError as error:
        raise ImportError("the PDF edition needs the extra pdf: pip install 'palimpsest-companion[pdf]'") from error
    work = target.with_suffix(".typ.tmp")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    shutil.copytree(html_dir / "_images", work / "_images")
    whole = "\n".join(article(html_dir, name, set(names)) for name in names)
    body = pypandoc.convert_text(whole, "typst", format=READER, extra_args=["--wrap=none"])
    body = CHAPTER.sub("#pagebreak(weak: true)\n= ", body)  # Typst allows none in a rule for headings
    (work / "book.typ").write_text(_template(heads.read(ROOT)).replace("BODY", body), encoding="utf-8")
    fonts = [str(Path(matplotlib.get_data_path()) / "fonts" / "ttf")]
    partial = target.with_suffix(".part")
    typst.compile(
        str(work / "book.typ"), str(partial), root=str(work), font_paths=fonts, ignore_system_fonts=True, format="pdf"
    )
    os.replace(partial, target)
    shutil.rmtree(work)
    return target


def article(html_dir: Path, name: str, known: set[str]) -> str:
    """What page `name` of the site says, as plain HTML: formulas as TeX, pictures by their path in the site, links to
    a heading of a page in `known` by that heading's name in the whole."""
    page = BeautifulSoup((html_dir / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
    text = page.select_one("article")
    for formula in text.select(".katex"):
        tex = formula.find("annotation").get_text()
        shown = formula.parent if "katex-display" in formula.parent.get("class", []) else None
        (shown or formula).replace_with(f"\\[{tex}\\]" if shown else f"\\({tex}\\)")
    for drawn in text.select("svg[aria-label]"):
        drawn.replace_with(f" {drawn['aria-label']}")
    for part in text.select(DROPPED):
        part.decompose()
    for marked in text.find_all(string=MARK):
        marked.replace_with("\N{WORD JOINER}" + marked.lstrip())
    for picture in text.select("img"):
        picture["src"] = "_images/" + picture["src"].rpartition("/")[2]
    for listing in text.select("pre"):
        listing.string = listing.get_text()
    for link in text.select("a[href]"):
        _aim(link, name, known)
    for section in text.select("section[id]"):
        heading = section.find(["h1", "h2", "h3", "h4"])
        if heading:
            heading["id"] = _label(name if heading.name == "h1" else f"{name}-{section['id']}")
    for part in text.select("[id]:not(h1, h2, h3, h4)"):
        del part["id"]
    return str(text)


def _aim(link: Tag, name: str, known: set[str]) -> None:
    """Let `link` of page `name` lead to the chapter that it names; a link that leaves the book stays as it is."""
    address = link["href"].partition("#")[0]
    if "://" in address or address.startswith("mailto:"):
        return
    goal = os.path.normpath(os.path.join(os.path.dirname(name), address))[: -len(".html")] if address else name
    if goal in known and goal != name:
        link["href"] = "#" + _label(goal)
    else:
        link.unwrap()


def _label(name: str) -> str:
    return name.replace("/", "-")


def _template(book: heads.Book) -> str:
    text = Path(__file__).with_name("book.typ").read_text(encoding="utf-8")
    for place, said in (
        ("SUBTITLE", book.subtitle),
        ("TITLE", book.citation["title"]),
        ("NAME", book.title),
        ("AUTHOR", ", ".join(book.authors)),
        ("VERSION", book.citation["version"]),
        ("YEAR", book.year),
    ):
        text = text.replace(place, said)
    return text


if __name__ == "__main__":
    print(write())
