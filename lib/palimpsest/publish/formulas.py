"""Set the formulas of the site when it is built, so that no reader's browser has to, nor fetch what it takes.

KaTeX is the copy that sphinxcontrib-katex puts into the site; V8 runs it.
"""

import re
from pathlib import Path

from bs4 import BeautifulSoup
from py_mini_racer import JSEvalException, MiniRacer

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
            texts[0].replace_with(BeautifulSoup(html, "html.parser"))
        return problems
