"""Write an SVG of matplotlib's shorter, so that it looks the same: fewer digits, each style and name written once,
grey pictures without colours. A scatter of some thousand points shrinks to a fourth, a plot to a half."""

import base64
import io
import re
from collections import Counter
from itertools import groupby
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from PIL import Image, ImageChops

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", SVG)
HREF = f"{{{XLINK}}}href"
LENGTHS = ("d", "x", "y", "points")
"""Attributes in points of 1/72 inch, or in hundredths of an em; a transform has factors too, and keeps its digits."""
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
REFERENCE = re.compile(r"#([^\")]+)")
PNG = "data:image/png;base64,"


def shorten(svg: str) -> str:
    """`svg` in fewer bytes. Coordinates are rounded to 1/100 point; pictures keep each pixel.

    Raises `ElementTree.ParseError` where `svg` is not well formed.
    """
    root = ElementTree.fromstring(svg)
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    for tag in root.iter():
        tag.tail = None
        tag.text = tag.text.strip() if tag.text else None
        for name in LENGTHS:
            if name in tag.attrib:
                short = NUMBER.sub(_rounded, " ".join(tag.attrib[name].split()))
                tag.set(name, re.sub(r" ?([A-Za-z]) ?", r"\1", short))
        address = tag.attrib.pop(HREF, None)
        if address:
            tag.set("href", PNG + _repack(address.removeprefix(PNG)) if address.startswith(PNG) else address)
        _merge_clipped(tag)
    _short_names(root)
    _classes(root)
    return ElementTree.tostring(root, encoding="unicode").replace(" />", "/>")


def _rounded(match: re.Match) -> str:
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".").replace("-0.", "-.").removeprefix("0") or "0"


def _repack(encoded: str) -> str:
    """A PNG in base64, in shades of grey where it has no other colour and hides nothing."""
    picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
    if picture.mode == "RGBA" and picture.getextrema()[3] == (255, 255):
        picture = picture.convert("RGB")
        red, green, blue = picture.split()
        if not ImageChops.difference(red, green).getbbox() and not ImageChops.difference(red, blue).getbbox():
            picture = red
    packed = io.BytesIO()
    picture.save(packed, "PNG", optimize=True)
    return base64.b64encode(packed.getvalue()).decode()


def _merge_clipped(parent: Element) -> None:
    """One group for neighbouring groups that share a clip path and have no other attribute."""
    children = list(parent)
    for child in children:
        parent.remove(child)
    for (kind, attributes), group in groupby(children, key=lambda child: (child.tag, child.attrib)):
        first, *others = group
        parent.append(first)
        if kind == f"{{{SVG}}}g" and list(attributes) == ["clip-path"]:
            for other in others:
                first.extend(other)
        else:
            parent.extend(others)


def _short_names(root: Element) -> None:
    """Number the ids instead of spelling them out, and drop those that nothing names."""
    references = [(tag, name) for tag in root.iter() for name, value in tag.items() if REFERENCE.search(value)]
    named = {name for tag, attribute in references for name in REFERENCE.findall(tag.attrib[attribute])}
    short: dict[str, str] = {}
    for tag in root.iter():
        name = tag.attrib.pop("id", None)
        if name in named:
            tag.set("id", short.setdefault(name, f"i{len(short)}"))
    for tag, attribute in references:
        tag.set(attribute, REFERENCE.sub(lambda match: f"#{short.get(match[1], match[1])}", tag.attrib[attribute]))


def _classes(root: Element) -> None:
    """A class for each style that is written more than once, given to a group where neighbours share it."""
    count = Counter(tag.get("style") for tag in root.iter() if tag.get("style"))
    names = {style: f"s{number}" for number, style in enumerate(s for s, n in count.items() if n > 1)}
    # The opacity of a group is not that of each of its parts where these overlap.
    joint = {name for style, name in names.items() if not re.search(r"(?<!-)opacity", style)}
    for tag in list(root.iter()):
        children = list(tag)
        for child in children:
            tag.remove(child)
            if child.get("style") in names:
                child.set("class", names[child.attrib.pop("style")])
        for shared, group in groupby(children, key=lambda child: child.get("class")):
            run = list(group)
            if shared in joint and len(run) > 2:
                for child in run:
                    del child.attrib["class"]
                run = [_group(shared, run)]
            tag.extend(run)
    sheet = Element(f"{{{SVG}}}style")
    sheet.text = "".join(f".{name}{{{style}}}" for style, name in names.items())
    root.insert(0, sheet)


def _group(shared: str, children: list[Element]) -> Element:
    group = Element(f"{{{SVG}}}g", {"class": shared})
    group.extend(children)
    return group
