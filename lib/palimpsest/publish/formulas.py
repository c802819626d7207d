"""Set the formulas of the site when it is built, so that no reader's browser has to, nor fetch what it takes.

KaTeX is the copy that sphinxcontrib-katex puts into the site; V8 runs it.
"""

import re
from pathlib import Path

from bs4 import BeautifulSoup
from py_mini_racer import JSEvalException, MiniRacer

MATHML = ' xmlns="http://www.w3.org/1998/Math/MathML"'
DELIMITED = re.compile(r"\\\((?P<inline>.*)\\\)|\\\[(?P<display>.*)\\\]", re.DOTALL)


class Typesetter:
    """KaTeX out of the file `katex`."""

    def __init__(self, katex: Path):
        self._engine = MiniRacer()
        self._engine.eval(katex.read_text(encoding="utf-8"))

    def typeset(self, page: BeautifulSoup) -> list[str]:
        r"""Replace, in place, each `\(…\)` and `\[…\]` of an element `.math` by its boxes and its MathML.

        Returns what could not be read, one line each; such a formula stays as it was.
        """
        problems = []
        for formula in page.select("span.math, div.math"):
            # An equation number is a link or a span inside the formula's box, so only the box's own text counts.
            texts = formula.find_all(string=True, recursive=False)
            found = DELIMITED.fullmatch("".join(texts).strip())
            if not found:
                problems.append(f"formula without delimiters: {''.join(texts).strip()}")
                continue
            options = {"displayMode": found["display"] is not None, "strict": "ignore"}
            try:
                html = self._engine.call("katex.renderToString", found["display"] or found["inline"], options)
            except JSEvalException as error:
                problems.append(re.search(r"ParseError: .*", str(error))[0])
                continue
            for text in texts[1:]:
                text.extract()
            # In HTML the name space goes without saying.
            texts[0].replace_with(BeautifulSoup(html.replace(MATHML, ""), "html.parser"))
        _share_styles(page)
        return problems


def _share_styles(page: BeautifulSoup) -> None:
    """Name each style that KaTeX writes at a box, hundreds of times a page, once in the head."""
    names: dict[str, str] = {}
    for box in page.select(".katex [style]"):
        name = names.setdefault(box.attrs.pop("style"), f"k{len(names)}")
        box["class"] = [*box.get("class", []), name]
    if names:
        sheet = page.new_tag("style")
        # Thrice named, the class outweighs KaTeX's own rules, as the attribute did.
        sheet.string = "".join(f".katex .{name}.{name}.{name}{{{style}}}" for style, name in names.items())
        page.head.append(sheet)
