"""A shortened figure keeps its geometry, its styles and the pixels of its pictures."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from palimpsest.publish import marks, vector

HEAD = f'<svg xmlns="{vector.SVG}" xmlns:xlink="{vector.XLINK}">'


def shortened(body: str) -> str:
    text = vector.shorten(f"{HEAD}{body}</svg>")
    return re.sub(r"^<svg [^>]*>|<style>.*?</style>|<style/>|</svg>$", "", text)


@pytest.mark.parametrize(
    ("body", "short"),
    [
        ('<path d="M 0 192.310594 \nL 0.5 0.004 \nz\n"/>', '<path d="m0 192.31 .5-192.31z"/>'),
        ('<path d="M -0.125 100.00 L 10.50 -0.5"/>', '<path d="m-.12 100 10.62-100.5"/>'),
        ('<g transform="translate(1.234567 2)"><a/></g>', '<g transform="translate(1.234567 2)"><a/></g>'),
        ('<g id="axes_1"><metadata/></g>', "<metadata/>"),
        (
            '<path id="mark" d="M0 0"/><use xlink:href="#mark" x="98.671606"/>',
            '<path d="m0 0" id="i0"/><use x="98.67" href="#i0"/>',
        ),
        (
            '<g clip-path="url(#p)"><a/></g><g clip-path="url(#p)"><b/></g><g clip-path="url(#q)"><c/></g>',
            '<g clip-path="url(#p)"><a/><b/></g><g clip-path="url(#q)"><c/></g>',
        ),
        ('<g><a style="x"/><b style="x"/><c style="y"/></g>', '<a class="s0"/><b class="s0"/><c style="y"/>'),
        (
            '<g><a style="x"/><b style="x"/><c style="x"/></g>',
            '<g class="s0"><a/><b/><c/></g>',
        ),
        (
            '<g><a style="opacity: 0.5"/><b style="opacity: 0.5"/><c style="opacity: 0.5"/></g>',
            '<a class="s0"/><b class="s0"/><c class="s0"/>',
        ),
    ],
)
def test_each_shortening(body, short):
    assert shortened(body) == short


def test_a_style_that_is_shared_is_written_once():
    assert "<style>.s0{fill: red}</style>" in vector.shorten(
        f'{HEAD}<a style="fill: red"/><b style="fill: red"/></svg>'
    )


@pytest.mark.parametrize(("colour", "mode"), [((7, 7, 7, 255), "L"), ((7, 8, 7, 255), "RGB"), ((7, 7, 7, 9), "RGBA")])
def test_pictures_keep_their_pixels(colour, mode):
    before, raw = Image.new("RGBA", (3, 2), colour), io.BytesIO()
    before.save(raw, "PNG")
    encoded = base64.b64encode(raw.getvalue()).decode()
    text = vector.shorten(f'{HEAD}<image xlink:href="{vector.PNG}{encoded}"/></svg>')
    after = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", text)[1])))
    assert after.mode == mode
    assert after.convert("RGBA").tobytes() == before.tobytes()


def numbers(d: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?(?:\d+\.?\d*|\.\d+)", d)]


def test_a_scatter_keeps_its_points_and_loses_most_of_its_bytes():
    x, y = np.random.default_rng(0).random((2, 500))
    figure, drawn = Figure(), io.StringIO()
    figure.subplots().scatter(x, y, c=np.arange(500) % 3, cmap="viridis")
    figure.savefig(drawn, format="svg")
    short = vector.shorten(drawn.getvalue())
    uses = [
        tag for tag in ElementTree.fromstring(drawn.getvalue()).iter(marks.USE) if tag.get("x") and tag.get("style")
    ]
    before = [(float(tag.get("x")), float(tag.get("y"))) for tag in uses if "fill" in tag.get("style")]
    lines = re.findall(r'd="m([^"hvlz]*)" class', re.sub("[hv]", " ", short))
    after = [end for line in lines for end in np.cumsum(np.reshape(numbers(line), (-1, 2)), axis=0)]
    assert len(uses) >= 500
    far = [np.abs(np.subtract(after, place)).max(axis=1).min() for place in before]
    assert max(far) <= 0.0501
    assert len(short) < len(drawn.getvalue()) / 4
