"""Files that say themselves whether they are as they were written."""

import pytest

from palimpsest.drills import changes
from palimpsest.runs import seals


@pytest.mark.parametrize("name", ["checkpoints", "cache entries"])
def test_every_change_of_a_byte_is_caught_by_name(name):
    counts = changes.block(name, 0)
    assert counts["tried"] == counts["caught"] > 0


def test_every_byte_of_a_small_file_counts(tmp_path):
    for file, write, read, value in (
        (tmp_path / "a", seals.write, seals.read, b"some bytes"),
        (tmp_path / "b.json", seals.write_json, seals.read_json, {"a": [1, 0.1, None, "ż"], "b": {"c": True}}),
    ):
        write(file, value)
        assert read(file) == value
        content = file.read_bytes()
        for position in range(len(content)):
            for changed in (content[position] ^ 1, 32):
                if changed != content[position]:
                    file.write_bytes(content[:position] + bytes([changed]) + content[position + 1 :])
                    with pytest.raises(ValueError, match=f"{file}: altered or cut short"):
                        read(file)
        for text in (content[:-1], content[:70], b"", b"[]", content + b"\n"):
            file.write_bytes(text)
            with pytest.raises(ValueError, match=f"{file}: altered or cut short"):
                read(file)
