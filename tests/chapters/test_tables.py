"""Tables as pages show them: few columns that answer one question, the rest folded."""

import re

import nbformat
import pandas as pd
import pytest

from palimpsest import figures
from palimpsest.papers import PAPERS
from palimpsest.publish import gates
from palimpsest.runs.paths import ROOT

MOST = 6
"""Columns that fit a page beside its margins."""


def test_what_is_folded_stands_beside_the_columns_that_say_what_a_row_is():
    frame = pd.DataFrame({"a": ["x"], "b": ["y"], "value": [1.5], "more": [float("nan")]})
    found = figures.table(frame, ["a", "value"], {"More & less": ["more"]}, keys=2).data
    first, _, rest = found.partition("<details>")
    assert re.findall("<th>(.*?)</th>", first) == ["a", "value"]
    assert re.findall("<th>(.*?)</th>", rest) == ["a", "b", "more"]
    assert "<summary>More &amp; less</summary>" in rest
    assert re.findall("<td>(.*?)</td>", rest) == ["x", "y", "–"]
    assert "<details>" not in figures.table(frame).data


@pytest.mark.parametrize("chapter", [paper.chapter for paper in PAPERS.values()])
def test_no_table_of_an_executed_chapter_is_wider_than_a_page(chapter):
    notebook = nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", 4)
    if gates.source_digest(notebook) != gates.source_digest(gates.source_of(chapter)):
        pytest.skip("its outputs are of another source, which the gate of pairs says")
    wide = [
        table[:200]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for table in output.get("data", {}).get("text/html", "").split("<table")[1:]
        if len(re.findall("<th[ >]", table.partition("</thead>")[0])) > MOST
    ]
    assert wide == []
