"""Write the letters of an SVG of matplotlib's as text in a font that the SVG carries, instead of as outlines.

A font of the letters that a figure has weighs half of what their outlines do, and each letter of a label then takes
one byte for thirty.
"""

import base64
import io
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from xml.etree.ElementTree import Element

import matplotlib
from fontTools import subset
from fontTools.ttLib import TTFont

SVG = "http://www.w3.org/2000/svg"
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
GLYPH = re.compile(r"#(DejaVuSans(?:-[A-Z][A-Za-z]*)?)-([0-9a-f]+)")
SHIFT = re.compile(r"translate\((\S+) (\S+)\)")
SCALED = re.compile(r"(.*?) ?scale\((\S+) -\2\)")
"""Outlines stand upside down, and their unit is 1/100 of the font's size."""
UNIT = 100
SLACK = 0.5
"""Hundredths of an em that a letter may stand off the place where its font puts it."""
COMMON = 0x2300
"""Characters below this: scripts of Europe, arrows and signs of mathematics. Others keep their outlines."""
TABLES = {"cmap", "glyf", "loca", "head", "hhea", "hmtx", "maxp", "name", "OS/2", "post"}
"""The parts of a font that browsers insist on; the rest hints and pairs."""


def letter(root: Element) -> str:
    """Make text, in place, of the labels of one font, one size and one line; return the style of their fonts."""
    used: dict[str, set[str]] = {}
    for group in list(root.iter(f"{{{SVG}}}g")):
        letters = [tag for tag in group if tag.tag == f"{{{SVG}}}use"]
        scaled = SCALED.fullmatch(group.get("transform", ""))
        label = _label(letters) if scaled and letters else None
        if label is None:
            continue
        font, text, places, drop = label
        used.setdefault(font, set()).update(text)
        size = float(scaled[2])
        for tag in letters:
            group.remove(tag)
        written = Element(f"{{{SVG}}}text", {"style": f"font:{UNIT * size:g}px {font},sans-serif"})
        written.text = text
        if drop:
            written.set("y", f"{-drop * size:.2f}")
        if places:
            written.set("x", " ".join(f"{place * size:.2f}" for place in places))
        group.append(written)
        group.set("transform", scaled[1])
    _forget_outlines(root)
    if not used:
        return ""
    faces = [
        f"@font-face{{font-family:{font};src:url({_carried(font, text)})}}" for font, text in sorted(used.items())
    ]
    return "".join(["text{white-space:pre;text-rendering:geometricPrecision}", *faces])


def _label(letters: list[Element]) -> tuple[str, str, list[float], float] | None:
    """Font, text, places (none where the font would put them there) and height of `letters`, in hundredths of an em;
    nothing where they are not text of one font and size on one line."""
    names = [GLYPH.fullmatch(tag.get("href", "")) for tag in letters]
    shifts = [SHIFT.fullmatch(tag.get("transform", "translate(0 0)")) for tag in letters]
    if not all(names) or not all(shifts) or len({name[1] for name in names}) > 1:
        return None
    font, heights = names[0][1], {float(shift[2]) for shift in shifts}
    glyphs = [_glyphs(font).get(int(name[2], 16)) for name in names]
    if not all(glyphs) or len(heights) > 1:
        return None
    places, natural = [float(shift[1]) for shift in shifts], 0.0
    moved = False
    for place, (_, advance) in zip(places, glyphs, strict=True):
        moved |= abs(place - natural) > SLACK
        natural += advance
    return font, "".join(character for character, _ in glyphs), places if moved else [], heights.pop()


@cache
def _glyphs(font: str) -> dict[int, tuple[str, float]]:
    """By glyph number: the character, and the way to the next letter in hundredths of an em."""
    read = TTFont(FONTS / f"{font}.ttf")
    unit = UNIT / read["head"].unitsPerEm
    return {
        read.getGlyphID(name): (chr(code), read["hmtx"][name][0] * unit)
        for code, name in sorted(read.getBestCmap().items(), reverse=True)
        if code < COMMON
    }


@cache
def _common(font: str) -> bytes:
    """The font without the many letters that no label has, from which others are cut sooner."""
    return _cut(TTFont(FONTS / f"{font}.ttf", recalcTimestamp=False), map(chr, range(COMMON)))


def _cut(font: TTFont, text: Iterable[str]) -> bytes:
    """`font` with the letters of `text` alone."""
    for table in set(font.keys()) - TABLES - {"GlyphOrder"}:
        del font[table]
    cutter = subset.Subsetter(subset.Options(hinting=False, notdef_outline=False, name_IDs=[1]))
    cutter.populate(text="".join(sorted(text)))
    cutter.subset(font)
    packed = io.BytesIO()
    font.save(packed)
    return packed.getvalue()


def _carried(font: str, text: set[str]) -> str:
    """The font with no more than the letters of `text`, as an address."""
    cut = TTFont(io.BytesIO(_common(font)), recalcTimestamp=False)
    cut.flavor = "woff"
    return f"data:font/woff;base64,{base64.b64encode(_cut(cut, text)).decode()}"


def _forget_outlines(root: Element) -> None:
    """Drop the outlines of letters that nothing draws any more."""
    drawn = {tag.get("href", "") for tag in root.iter(f"{{{SVG}}}use")}
    for defs in root.iter(f"{{{SVG}}}defs"):
        for tag in list(defs):
            if GLYPH.fullmatch(f"#{tag.get('id', '')}") and f"#{tag.get('id')}" not in drawn:
                defs.remove(tag)
