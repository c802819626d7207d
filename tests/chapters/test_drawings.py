"""The drawings of ideas: what they show is computed by the library and agrees with a calculation by hand."""

import math
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from palimpsest.chapters.jscds import drawing as jscds
from palimpsest.chapters.kernels import drawing as kernels
from palimpsest.chapters.sage import drawing as sage
from palimpsest.chapters.sau import drawing as sau
from palimpsest.chapters.unlearning_quantised import drawings

WIDGETS = {"projection": drawings.projection, "staircase": drawings.staircase}


def texts(figure):
    found = [text.get_text() for axis in figure.axes for text in (*axis.texts, axis.title, axis.xaxis.label)]
    plt.close(figure)
    return found


def test_masking_loses_progress_and_redistribution_gives_it_back():
    kept, steps = sau.forms()
    assert kept.sum(1).tolist() == [3, 3, 3]
    assert (steps["redistributed"][~kept] == 0).all()
    assert sau.progress(steps["masked"])[0].item() == pytest.approx(
        (1.0 + 0.64 + 0.04) / (1 + 0.36 + 0.64 + 0.04 + 0.25)
    )
    assert sau.progress(steps["redistributed"]).tolist() == pytest.approx([1, 1, 1])
    assert texts(sau.idea()).count("100%") == 6  # dense and redistributed


def test_the_divergence_of_a_sample_is_that_of_its_mixture():
    p, q = np.array(jscds.SAMPLES["a sample far from it"]), np.array(jscds.CENTRE)
    m = (p + q) / 2
    exact = (p * np.log(p / m) + q * np.log(q / m)).sum() / 2
    assert jscds.divergence(tuple(p), tuple(q)) == pytest.approx(exact)
    assert f"a sample far from it: J = {exact:.3f} nats" in texts(jscds.idea())


def test_a_sure_draft_has_the_deeper_tree_and_an_unsure_one_the_wider():
    p = 0.1 ** np.arange(10)
    p = p / p.sum()
    assert sage.draft(0.1).alpha == pytest.approx(1 + (p * np.log(p)).sum() / math.log(10))
    said = texts(sage.idea())
    assert "level (14 nodes on 7 levels)" in said
    assert "level (9 nodes on 2 levels)" in said


def test_the_entropy_walks_eight_times_and_a_kernel_once():
    assert kernels.walks() == [("log_softmax", 1, 1), ("exp", 1, 1), ("times", 2, 1), ("sum", 1, 0)]
    said = texts(kernels.idea())
    assert said.count("read") == 5 + 1
    assert said.count("write") == 3


def test_the_projection_is_at_a_right_angle():
    f, r = np.array([-1.1, 1.0]), np.array([1.5, 0.3])
    perp = drawings.projected(tuple(f), tuple(r))
    assert perp == pytest.approx(f - (f @ r) / (r @ r) * r)
    angle = math.degrees(math.acos(f @ r / np.linalg.norm(f) / np.linalg.norm(r)))
    assert f"at {angle:.0f} degrees" in drawings.projection(tuple(f), tuple(r)).svg


def test_a_staircase_of_two_bits_by_hand():
    step = 2 * math.sqrt(2 / math.pi)  # 2 E|v| / √1
    grid, rounded, error = drawings.stairs(2)
    assert sorted(set(rounded.tolist())) == pytest.approx([-2 * step, -step, 0, step])
    assert rounded[(grid - 0.5).abs().argmin()] == 0

    def squared(v):
        return (step * min(max(round(v / step), -2), 1) - v) ** 2 * norm.pdf(v)

    edges = [-1.5 * step, -0.5 * step, 0.5 * step]
    exact = math.sqrt(quad(squared, -8, 8, points=edges, limit=200)[0])
    assert error == pytest.approx(exact, rel=0.01)  # of 10⁵ draws: about 0.3 %


@pytest.mark.parametrize("name", WIDGETS)
def test_a_widget_is_a_picture_with_a_short_script_that_asks_for_nothing(name):
    widget = WIDGETS[name]()
    picture, page = widget._repr_svg_(), widget._repr_html_()
    assert ElementTree.fromstring(picture).get("aria-label")
    assert picture in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    script = page.partition("<script>")[2].partition("</script>")[0]
    assert page.count("</script>") == 1
    assert 5 < len(script.strip().splitlines()) <= 60
    assert "DATA" not in page
    assert "</script>" not in script
