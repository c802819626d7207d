"""The deposit is the same for the same commit, holds sources and site, and says what they are."""

import hashlib
import json
import shutil
import subprocess
import tarfile

import pytest

from palimpsest.data import manifest
from palimpsest.publish import archive, crate
from palimpsest.runs import paths

ITSELF = {crate.NAME, archive.SUMS}


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one commit, and a built site beside it."""
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    root, build = tmp_path / "root", tmp_path / "build"
    (root / "data").mkdir(parents=True)
    (root / "source.py").write_text("a = 1\n", encoding="utf-8")
    (root / "data" / "five.bin").write_bytes(b"12345")
    manifest.update(["five.bin"], licence="MIT", origin="here", made_by="hand", root=root / "data")
    shutil.copyfile(paths.ROOT / "CITATION.cff", root / "CITATION.cff")
    (build / "html" / "deep").mkdir(parents=True)
    (build / "html" / "index.html").write_text("a page", encoding="utf-8")
    (build / "html" / "deep" / "page.html").write_text("another", encoding="utf-8")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.test"]
    for arguments in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "-m", "one"]):
        subprocess.run(["git", "-C", root, *arguments], check=True)
    return root, build


def unpacked(path):
    """The contents of the deposit by their paths in it."""
    with tarfile.open(path) as opened:
        return {e.name.partition("/")[2]: opened.extractfile(e).read() for e in opened.getmembers()}


def test_holds_sources_and_site(checkout):
    sources = {"source.py", "CITATION.cff", "data/MANIFEST", "data/five.bin"}
    assert unpacked(archive.write(*checkout)).keys() == sources | {"site/index.html", "site/deep/page.html"} | ITSELF


def test_same_commit_same_bytes(checkout):
    root, build = checkout
    first = archive.write(root, build).read_bytes()
    assert first[4:8] == bytes(4)  # the gzip header's time of writing
    (root / "source.py").touch()
    (build / "html" / "index.html").touch()
    assert archive.write(root, build).read_bytes() == first


def test_names_nobody_of_this_machine(checkout):
    with tarfile.open(archive.write(*checkout)) as opened:
        assert {(e.uid, e.gid, e.uname, e.gname) for e in opened.getmembers()} == {(0, 0, "", "")}
        assert len({e.mtime for e in opened.getmembers()}) == 1


def test_every_other_file_has_its_sum(checkout):
    held = unpacked(archive.write(*checkout))
    listed = dict(line.split("  ")[::-1] for line in held.pop(archive.SUMS).decode().splitlines())
    assert listed == {name: hashlib.sha256(data).hexdigest() for name, data in held.items()}


def test_says_what_each_data_file_is_and_under_which_licence(checkout):
    graph = json.loads(unpacked(archive.write(*checkout))[crate.NAME])["@graph"]
    known = {entity["@id"]: entity for entity in graph}
    assert len(known) == len(graph)
    assert known["data/five.bin"]["license"] == {"@id": "https://spdx.org/licenses/MIT"}
    assert known["data/five.bin"]["contentSize"] == "5"
    assert known["./"]["license"] == [{"@id": f"https://spdx.org/licenses/{name}"} for name in ("MIT", "CC-BY-4.0")]
    assert len(known["./"]["citation"]) == 5
    pointed = [r["@id"] for key in ("author", "citation", "hasPart", "license") for r in known["./"][key]]
    assert set(pointed) <= known.keys()
    assert {"data/", "site/", "source.py", "data/five.bin"} <= set(pointed)


def test_a_pdf_that_was_made_goes_along(checkout):
    (checkout[1] / archive.PDF).write_bytes(b"%PDF")
    held = unpacked(archive.write(*checkout))
    assert held[archive.PDF] == b"%PDF"
    assert archive.PDF in held[crate.NAME].decode()


def test_a_change_that_is_not_committed_is_refused(checkout):
    root, build = checkout
    (root / "source.py").write_text("a = 2\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"1 tracked files? differ.*source\.py"):
        archive.write(root, build)


def test_a_missing_site_is_named(checkout):
    root, build = checkout
    (build / "html" / "index.html").unlink()
    with pytest.raises(FileNotFoundError, match="make book"):
        archive.write(root, build)
    assert list(build.glob("*.tar.gz")) == []


def test_the_checkout_has_what_the_deposit_says_of_licences_and_authors():
    for name in ("LICENSE", "LICENSE-TEXT", "CITATION.cff", "data/MANIFEST"):
        assert (paths.ROOT / name).is_file()
