"""The deposit is the same for the same commit, and holds sources and site."""

import subprocess
import tarfile

import pytest

from palimpsest.publish import archive


@pytest.fixture
def checkout(tmp_path):
    """A repository with one commit, and a built site beside it."""
    root, build = tmp_path / "root", tmp_path / "build"
    root.mkdir()
    (root / "source.py").write_text("a = 1\n", encoding="utf-8")
    (build / "html" / "deep").mkdir(parents=True)
    (build / "html" / "index.html").write_text("a page", encoding="utf-8")
    (build / "html" / "deep" / "page.html").write_text("another", encoding="utf-8")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.test"]
    for arguments in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "-m", "one"]):
        subprocess.run(["git", "-C", root, *arguments], check=True)
    return root, build


def test_holds_sources_and_site(checkout):
    with tarfile.open(archive.write(*checkout)) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert names == {"source.py", "site/index.html", "site/deep/page.html"}


def test_same_commit_same_bytes(checkout):
    root, build = checkout
    first = archive.write(root, build).read_bytes()
    assert first[4:8] == bytes(4)  # the gzip header's time of writing
    (root / "source.py").touch()
    (build / "html" / "index.html").touch()
    assert archive.write(root, build).read_bytes() == first


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
