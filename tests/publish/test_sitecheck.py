"""The site check finds each fault that it is there to find, and nothing on a sound page."""

import pytest

from palimpsest.publish.sitecheck import check
from palimpsest.runs.paths import ROOT

HEAD = """<meta name="description" content="a"><meta property="og:title" content="a">
<meta property="og:image" content="own.svg"><link rel="icon" href="own.svg">
<script type="application/ld+json">{}</script>"""
SOUND = r"""<!doctype html><html><head>
<link rel="stylesheet" href="own.css"><link rel="canonical" href="https://book.test/">
<script src="own.js"></script>
</head><body><dialog><form><input type="search"></form></dialog><input type="search">
<h1 id="top">A page</h1><a href="#top">up</a><a href="other.html#there">on</a>
<a href="https://paper.test/x.js">a paper</a>
<img src="own.svg" alt="a square"><p>It costs $5 or $6.</p>
<span class="math"><span class="katex">\frac</span></span>
<pre>\(verbatim\) $$</pre>PLACE</body></html>"""
SOUND = SOUND.replace("</head>", HEAD + "</head>")
OTHER = HEAD + '<input type="search"><p id="there">here</p>'


@pytest.fixture
def site(tmp_path):
    def write(body="", css="p { color: red }", js="const a = 1; // see https://docs.test/x"):
        (tmp_path / "index.html").write_text(SOUND.replace("PLACE", body), encoding="utf-8")
        (tmp_path / "other.html").write_text(OTHER, encoding="utf-8")
        (tmp_path / "own.css").write_text(css, encoding="utf-8")
        (tmp_path / "own.js").write_text(js, encoding="utf-8")
        (tmp_path / "own.svg").write_text("<svg/>", encoding="utf-8")
        (tmp_path / "big.png").write_bytes(bytes(700_000))
        return tmp_path

    return write


def test_a_sound_site_passes(site):
    assert check(site()) == []


@pytest.mark.parametrize(
    ("body", "finding"),
    [
        ('<script src="https://cdn.test/a.js"></script>', "asks another host: https://cdn.test/a.js"),
        ('<script src="//cdn.test/a.js"></script>', "asks another host: //cdn.test/a.js"),
        ('<link rel="stylesheet" href="https://cdn.test/a.css">', "asks another host"),
        ('<link rel="preconnect" href="https://cdn.test">', "asks another host"),
        ('<img src="http://cdn.test/a.png" alt="a">', "asks another host"),
        ('<img src="own.svg" srcset="own.svg 1x, https://cdn.test/b.png 2x" alt="a">', "asks another host"),
        ('<iframe src="https://cdn.test/"></iframe>', "asks another host"),
        ('<p style="background: url(https://cdn.test/a.png)">x</p>', "asks another host"),
        ("<style>@import 'https://cdn.test/a.css';</style>", "asks another host"),
        ("<script>fetch('https://api.test/x')</script>", "asks another host"),
        ('<script>const URL_OF = "https://cdn.test/lib/index.js"</script>', "asks another host"),
        ('<input type="search">', "index.html: 2 search fields"),
        ('<button class="btn search-button-field">Search</button>', "index.html: 2 search fields"),
        ('<a href="#nowhere">x</a>', "no such anchor: #nowhere"),
        ('<a href="other.html#nowhere">x</a>', "no such anchor: other.html#nowhere"),
        ('<a href="gone.html">x</a>', "nothing at gone.html"),
        ('<img src="gone.png" alt="a">', "nothing at gone.png"),
        ('<img src="own.svg">', "image without alternative text: own.svg"),
        ('<img src="own.svg" alt=" ">', "image without alternative text: own.svg"),
        (r"<p>the bound \(J\) holds</p>", "TeX outside a formula"),
        (r"<td>$\mu \pm \sigma$</td>", "TeX outside a formula"),
        (r'<div class="math">\[a\]</div>', r"formula that was not set: \[a\]"),
        ('<img src="big.png" alt="a" loading="lazy">', "index.html: 701 kB with all that it loads; at most 700 kB"),
    ],
)
def test_faults_on_a_page_are_found(site, body, finding):
    assert [line for line in check(site(body)) if finding in line], check(site(body))


@pytest.mark.parametrize("css", ["@import url(https://cdn.test/a.css);", "p { background: url('//cdn.test/a.png') }"])
def test_faults_in_a_stylesheet_are_found(site, css):
    assert "own.css: asks another host" in "".join(check(site(css=css)))


@pytest.mark.parametrize(
    "js", ['fetch("https://api.test/x")', 'import("https://cdn.test/m")', 'tag.src = "https://cdn.test/x"']
)
def test_faults_in_a_script_are_found(site, js):
    assert "own.js: asks another host" in "".join(check(site(js=js)))


def test_a_page_without_search_is_found(site):
    folder = site()
    (folder / "other.html").write_text(HEAD + '<p id="there">here</p>', encoding="utf-8")
    assert check(folder) == ["other.html: 0 search fields; one is wanted"]


def test_a_page_without_a_head_is_found(site):
    folder = site()
    (folder / "other.html").write_text(OTHER.replace("og:title", "title"), encoding="utf-8")
    assert check(folder) == ["other.html: no title for previews in its head"]


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="html_dir"):
        check(tmp_path)


def test_vendored_katex_needs_no_other_file():
    folder = ROOT / "book" / "_static" / "katex"
    css = (folder / "katex.min.css").read_text(encoding="utf-8")
    named = {part.split(")")[0] for part in css.split("url(")[1:]}
    assert named == {f"fonts/{path.name}" for path in (folder / "fonts").iterdir()}
    assert (folder / "LICENSE").is_file()
