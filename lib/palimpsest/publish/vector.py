"""Write an SVG of matplotlib's shorter, so that it looks the same: fewer digits, each style and name written once,
the points of a scatter as one line's markers, letters in a font, grey pictures without colours. A scatter of some
thousand points shrinks to an eighth, a plot to a third."""

import base64
import io
import re
from collections import Counter
from decimal import Decimal
from itertools import groupby
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from PIL import Image, ImageChops

from palimpsest.publish import lettering, marks, outlines

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", SVG)
HREF = f"{{{XLINK}}}href"
USE, GROUP, CLIP = f"{{{SVG}}}use", f"{{{SVG}}}g", "clip-path"
LENGTHS = ("x", "y", "points")
"""Attributes in points of 1/72 inch, or in hundredths of an em; a transform has factors too, and keeps its digits."""
GRID, MARK_GRID = Decimal("0.01"), Decimal("0.1")
"""Where corners of lines and centres of marks are put, in points. A screen shows no less than half a point."""
GLYPH, GLYPH_TENTH = "scale(0.015625)", "scale(.15625)"
"""Outlines of letters come in units of 1/6400 em; a tenth of these is finer than a screen shows."""
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
REFERENCE = re.compile(r"#([^\")]+)")
PNG = "data:image/png;base64,"
SHADES = 64
"""A picture of so many greys is a photograph; a matrix drawn as one has fewer, and keeps each pixel."""


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
        address = tag.attrib.pop(HREF, None)
        if address:
            tag.set("href", _repack(address.removeprefix(PNG)) if address.startswith(PNG) else address)
        _merge_clipped(tag)
    fonts = lettering.letter(root)
    _short_names(root)
    _unwrap(root)
    marks.join(root)
    for tag in root.iter():
        _shorten_numbers(tag)
    _classes(root, fonts)
    return ElementTree.tostring(root, encoding="unicode").replace(" />", "/>")


def _shorten_numbers(tag: Element) -> None:
    """Round what is a length; a mere shift of what is used becomes its `x` and `y`."""
    if tag.tag == USE and not {"x", "y"} & tag.attrib.keys():
        shift = lettering.SHIFT.fullmatch(tag.get("transform", ""))
        if shift:
            del tag.attrib["transform"]
            tag.attrib |= {name: value for name, value in zip("xy", shift.groups(), strict=True) if float(value)}
    for name in LENGTHS:
        if name in tag.attrib:
            tag.set(name, NUMBER.sub(_rounded, " ".join(tag.attrib[name].split())))
    if "d" in tag.attrib:
        glyph = tag.get("transform") == GLYPH
        grid = Decimal(10) if glyph else MARK_GRID if "marker:" in tag.get("style", "") else GRID
        tag.set("d", outlines.relative(tag.attrib["d"], grid, 10 if glyph else 1))
        if glyph:
            tag.set("transform", GLYPH_TENTH)


def _rounded(match: re.Match) -> str:
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".").replace("-0.", "-.").removeprefix("0") or "0"


def _repack(encoded: str) -> str:
    """The address of a PNG in base64, anew: in shades of grey where it has no other colour and hides nothing, and a
    photograph in them as WebP."""
    picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
    if picture.mode == "RGBA" and picture.getextrema()[3] == (255, 255):
        picture = picture.convert("RGB")
        red, green, blue = picture.split()
        if not ImageChops.difference(red, green).getbbox() and not ImageChops.difference(red, blue).getbbox():
            picture = red
    photograph = picture.mode == "L" and len(picture.getcolors(256)) >= SHADES
    kind, options = ("webp", {"quality": 80, "method": 6}) if photograph else ("png", {"optimize": True})
    packed = io.BytesIO()
    picture.save(packed, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(packed.getvalue()).decode()}"


def _merge_clipped(parent: Element) -> None:
    """One group for neighbours that are cut by the same clip path and do not move it."""
    children = list(parent)
    for child in children:
        parent.remove(child)
    for clip, group in groupby(children, key=lambda child: None if "transform" in child.attrib else child.get(CLIP)):
        run = list(group)
        if clip and len(run) > 1:
            for child in run:
                del child.attrib[CLIP]
            run = [_group(CLIP, clip, run)]
        parent.extend(run)


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


def _unwrap(parent: Element) -> None:
    """Take away the groups that say nothing, and those that hold nothing."""
    for child in list(parent):
        _unwrap(child)
        if child.tag == GROUP and (not child.attrib or not len(child)):
            place = list(parent).index(child)
            parent.remove(child)
            parent[place:place] = list(child)


def _classes(root: Element, fonts: str) -> None:
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
                run = [_group("class", shared, run)]
            tag.extend(run)
    sheet = Element(f"{{{SVG}}}style")
    sheet.text = fonts + "".join(f".{name}{{{style}}}" for style, name in names.items())
    root.insert(0, sheet)


def _group(attribute: str, shared: str, children: list[Element]) -> Element:
    group = Element(GROUP, {attribute: shared})
    group.extend(children)
    return group
