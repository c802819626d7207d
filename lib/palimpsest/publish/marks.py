"""Write the marks of a scatter in an SVG as the corners of unseen lines, one line for each way of drawing them."""

import re
from itertools import groupby
from xml.etree.ElementTree import Element

import numpy as np

SVG = "http://www.w3.org/2000/svg"
USE = f"{{{SVG}}}use"
MARKER = {"overflow": "visible", "markerUnits": "userSpaceOnUse"}
FEWEST = 4
"""So many marks weigh more than a marker and its line."""
EDGE = 2.0
"""Points added to a mark's reach for the stroke around it."""


def join(root: Element) -> None:
    """Replace, in place, neighbouring `use` of one outline by markers; what overlaps is drawn in the order it was.

    Attributes must be named without prefixes, places be in `x` and `y`, and outlines in absolute coordinates.
    """
    outline = {tag.attrib["id"]: tag.get("d", "") for tag in root.iter() if "id" in tag.attrib}
    markers: dict[tuple, str] = {}
    for parent in list(root.iter()):
        children = list(parent)
        for name, group in groupby(children, key=_outline):
            run = list(group)
            if name is None or len(run) < FEWEST:
                continue
            place = list(parent).index(run[0])
            for tag in run:
                parent.remove(tag)
            for mark, points in layers(run, _reach(outline.get(name, ""))):
                if mark not in markers:
                    markers[mark] = f"m{len(markers)}"
                    marker = Element(f"{{{SVG}}}marker", {"id": markers[mark], **MARKER})
                    marker.append(Element(USE, dict(mark)))
                    parent.insert(place, marker)
                    place += 1
                style = f"fill:none;marker:url(#{markers[mark]})"
                corners = "M" + "L".join(f"{x:.6f} {y:.6f}" for x, y in points)
                parent.insert(place, Element(f"{{{SVG}}}path", {"d": corners, "style": style}))
                place += 1


def _outline(tag: Element) -> str | None:
    """The outline that `tag` draws; nothing where more than its place and style sets it apart."""
    if tag.tag != USE or not {"href", "style", "x", "y"} >= tag.attrib.keys():
        return None
    return tag.get("href", "").removeprefix("#")


def _reach(d: str) -> float:
    """How far from its place the mark with outline `d` may draw, in points."""
    return max((float(number) for number in re.findall(r"[\d.]+", d)), default=0.0) + EDGE


def layers(run: list[Element], reach: float) -> list[tuple[tuple, np.ndarray]]:
    """The marks of `run` as (attributes, places of shape [n, 2]), in few parts, to be drawn one after the other.

    Two marks that may overlap, being closer than 2 `reach` in both directions, keep their order.
    """
    places = np.array([[float(tag.get("x", 0)), float(tag.get("y", 0))] for tag in run])
    marks = [tuple(sorted((k, v) for k, v in tag.attrib.items() if k in ("href", "style"))) for tag in run]
    kinds = np.array([list(dict.fromkeys(marks)).index(mark) for mark in marks])
    layer = np.zeros(len(run), dtype=int)
    order: list[int] = []
    for i, kind in enumerate(kinds):
        near = (np.abs(places[:i] - places[i]) < 2 * reach).all(axis=1)
        first = max(layer[:i][near] + (kinds[:i][near] != kind), default=0)
        found = [k for k in range(first, len(order)) if order[k] == kind]
        if not found:
            order.append(kind)
        layer[i] = found[0] if found else len(order) - 1
    names = list(dict.fromkeys(marks))
    return [(names[kind], places[layer == k]) for k, kind in enumerate(order)]
