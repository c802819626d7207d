"""Files that are whole or not there."""

import errno
import os
import stat
from pathlib import Path

import pytest

from palimpsest import runs
from palimpsest.runs import files


def test_a_written_file_is_complete_and_everyone_can_read_it(tmp_path):
    path = tmp_path / "new" / "rows.json"
    runs.write_atomic(path, lambda temporary: Path(temporary).write_text("rows"))
    assert path.read_text() == "rows"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "rows.json"
    path.write_text("old")

    def fail(temporary):
        Path(temporary).write_text("half")
        raise error

    with pytest.raises(BaseException) as caught:  # noqa: PT011 — its kind is compared below
        runs.write_atomic(path, fail)
    assert caught.type is (error if isinstance(error, type) else OSError)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["mkstemp", "write", "fsync", "replace"])
def test_a_full_disk_is_reported_with_the_path(tmp_path, monkeypatch, place):
    path = tmp_path / "rows.json"

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a temporary name")

    owner = {"mkstemp": files.tempfile, "fsync": os, "replace": os}.get(place)
    if owner:
        monkeypatch.setattr(owner, place, full)
    write = full if place == "write" else lambda temporary: Path(temporary).write_text("rows")
    with pytest.raises(OSError, match=f"could not write {path}: No space left on device") as caught:
        runs.write_atomic(path, write)
    assert caught.value.errno == errno.ENOSPC
    assert "a temporary name" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_written_folder_is_complete_and_as_readable_as_any_other(tmp_path):
    path = tmp_path / "new" / "model"
    runs.write_folder(path, lambda folder: (folder / "a").write_text("rows"))
    assert (path / "a").read_text() == "rows"
    (tmp_path / "plain").mkdir()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "temporary")])
def test_a_folder_that_could_not_be_written_leaves_nothing(tmp_path, error):
    path = tmp_path / "model"

    def fail(folder):
        (folder / "a").write_text("half")
        raise error

    with pytest.raises((KeyboardInterrupt, OSError)) as caught:
        runs.write_folder(path, fail)
    if isinstance(error, OSError):
        assert str(caught.value) == f"[Errno {errno.ENOSPC}] could not write {path}: No space left on device"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_never_replaced(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    with pytest.raises(ValueError, match=f"^out: {path} exists, want the name of a new folder"):
        runs.require_new("out", path)
    runs.require_new("out", tmp_path / "other")
    (path / "thesis").write_text("mine")
    with pytest.raises(OSError, match=f"could not write {path}"):
        runs.write_folder(path, lambda folder: None)
    assert [file.read_text() for file in path.iterdir()] == ["mine"]
