"""A page of the site as the PDF edition takes it."""

from palimpsest.publish import pdf

PAGE = r"""<article><section id="top"><h1>A chapter<a class="headerlink" href="#top">#</a></h1>
<p>Of <span class="katex"><span class="katex-mathml"><math><annotation>x^2</annotation></math></span>
<span class="katex-html">x2</span></span> see <a href="../other.html#deep">there</a>, <a href="#near">here</a> and
<a href="https://a.test">out</a>.</p><p>= no effect</p>
<details class="hide"><summary>Show</summary><div class="cell_input"><pre>folded()</pre></div></details>
<section id="near"><h2>Near</h2><img src="../_images/a.svg"/></section></section></article>"""


def test_a_page_becomes_plain_html_with_its_links_inside_the_book(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_toy.html").write_text(PAGE, encoding="utf-8")
    made = pdf.article(tmp_path, "notebooks/01_toy", {"notebooks/01_toy", "other"})
    assert '<h1 id="notebooks-01_toy">A chapter</h1>' in made
    assert '<h2 id="notebooks-01_toy-near">' in made
    assert r"Of \(x^2\) see" in made
    assert '<a href="#other">there</a>, here and' in made
    assert '<a href="https://a.test">out</a>' in made
    assert '<img src="_images/a.svg"/>' in made
    assert "folded" not in made
    assert "<p>= " not in made
