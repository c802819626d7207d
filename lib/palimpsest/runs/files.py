"""Files and folders that are whole or not there."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An OSError of the block names `path`, not the temporary file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"could not write {path}: {error.strerror or error}") from error


def write_atomic(path: Path, write: Callable[[str], object]) -> None:
    """Call `write(temporary path)`, then move the result to `path` in one step; a kill leaves the old file.

    Raises OSError naming `path`, not the temporary file, when the disk refuses.
    """
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            write(temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner can read
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)


def require_new(name: str, path: Path) -> None:
    """Raise ValueError where `path`, the argument `name`, exists: `write_folder` overwrites nothing."""
    if path.exists():
        raise ValueError(f"{name}: {path} exists, want the name of a new folder")


def write_folder(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary folder)`, then move the folder to `path`, which is new, in one step; a kill leaves no
    folder there.

    Raises OSError naming `path` when the disk refuses.
    """
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # One folder deeper: the temporary one is only its owner's to read.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
            folder = Path(temporary) / path.name
            folder.mkdir()
            write(folder)
            os.replace(folder, path)
