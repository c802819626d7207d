"""The manifest of `data/`: what every shipped file is, where it came from, and its SHA-256.

`data/MANIFEST` is a YAML list, one entry a file, sorted by path. It lists everything under `data/` but
itself and what has a name or folder that begins with a dot (half-written files and an editor's own).
`root` is the folder that holds MANIFEST; None means `paths.DATA`.
"""

import hashlib
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path

import yaml
from filelock import FileLock

from palimpsest.runs import paths
from palimpsest.runs.cache import LOADER
from palimpsest.runs.files import write_atomic

NAME = "MANIFEST"
FIELDS = {"path": str, "sha256": str, "bytes": int, "licence": str, "origin": str, "made_by": str}
HEADER = """\
# Every file under data/, with its SHA-256, size, licence and origin. Written by palimpsest.data.manifest;
# a file that differs from its entry, is not listed, or is listed and gone, is refused by name.
"""


def read(root: Path | None = None) -> dict[str, dict]:
    """The entries by path (POSIX, relative to `root`). ValueError when MANIFEST is missing or malformed."""
    file = _root(root) / NAME
    if not file.is_file():
        raise ValueError(f"{file}: missing; restore it from the repository")
    try:
        entries = _parsed(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not readable as YAML: {error}") from error
    if not isinstance(entries, list):
        raise ValueError(f"{file}: got a {type(entries).__name__}, want a list of entries")
    listed = {}
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or {k: type(v) for k, v in entry.items()} != FIELDS:
            wanted = ", ".join(f"{key} ({kind.__name__})" for key, kind in FIELDS.items())
            raise ValueError(f"{file}: entry {number}: got {entry!r}, want exactly {wanted}")
        if entry["path"] in listed:
            raise ValueError(f"{file}: entry {number}: {entry['path']} is listed twice")
        listed[entry["path"]] = entry
    return listed


def check(paths: Iterable[str | Path] | None = None, root: Path | None = None) -> None:
    """Compare files with the manifest; `paths=None` compares all of `root`, both ways.

    Raises one ValueError with a line for each file that is truncated, altered, missing or unlisted.
    """
    root = _root(root)
    listed = read(root)
    names = listed.keys() | _files(root) if paths is None else {_name(path, root) for path in paths}
    faults = [fault for name in sorted(names) if (fault := _fault(name, listed.get(name), root))]
    if faults:
        raise ValueError("\n".join(faults))


def verify(path: str | Path, root: Path | None = None) -> Path:
    """Check one file before it is decoded, and return where it lies. ValueError as `check`."""
    root = _root(root)
    check([path], root)
    return root / _name(path, root)


def update(
    paths: Iterable[str | Path],
    *,
    licence: str = "CC-BY-4.0",
    origin: str = "this project",
    made_by: str = "palimpsest",
    root: Path | None = None,
) -> None:
    """Accept these files as they now are: rewrite their entries, in one atomic replacement of MANIFEST.

    The entry of a path that is gone is dropped; a path neither there nor listed is a ValueError. Entries of
    other files stay as they are, so an unnoticed change elsewhere is still refused. Safe under two
    processes.
    """
    root = _root(root)
    with _lock(root):
        listed = read(root) if (root / NAME).exists() else {}
        for path in paths:
            name = _name(path, root)
            if (root / name).is_file():
                details = {"licence": licence, "origin": origin, "made_by": made_by}
                listed[name] = {"path": name, **_digest(root / name), **details}
            elif listed.pop(name, None) is None:
                raise ValueError(f"paths: {root / name} does not exist and is not listed in {NAME}")
        text = HEADER + "\n" + "\n".join(_block(**listed[name]) for name in sorted(listed))
        write_atomic(root / NAME, lambda file: Path(file).write_text(text, encoding="utf-8"))


def enter(
    paths: Iterable[str | Path],
    *,
    licence: str | None = None,
    origin: str | None = None,
    made_by: str | None = None,
    root: Path | None = None,
) -> list[dict]:
    """Accept these files as they now are, as `update`, but with what their entries say besides, where None is given.

    Returns the new entries of those that are there. Nothing is written, and a ValueError is raised, where a file is
    new and one of the three is None, and for a folder, MANIFEST itself, and a path that is neither there nor listed.
    """
    root, wanted = _root(root), {"licence": licence, "origin": origin, "made_by": made_by}
    listed, details = read(root), {}
    for name in sorted({_name(path, root) for path in paths}):
        known = listed.get(name, {})
        details[name] = {key: known.get(key) if value is None else value for key, value in wanted.items()}
        if (root / name).is_dir() or name == NAME:
            raise ValueError(f"path: got {root / name}, want a file that {NAME} lists or is to list")
        lacking = [key for key, value in details[name].items() if value is None]
        if lacking and (root / name).exists():
            raise ValueError(f"{lacking[0]}: {name} is new in {NAME}, want its {', '.join(lacking)}")
        if lacking:
            raise ValueError(f"path: got {root / name}, which does not exist and is not listed in {NAME}")
    for name, said in details.items():
        update([name], **said, root=root)
    return [entry for name, entry in read(root).items() if name in details]


@lru_cache(1)
def _parsed(text):
    # A study lists hundreds of files, and each that is read costs one reading of the manifest.
    return yaml.load(text, LOADER) or []


@cache
def _block(**entry):
    return yaml.safe_dump([entry], sort_keys=False, allow_unicode=True, width=10_000)


def _root(root):
    return Path(paths.DATA if root is None else root)


def _name(path, root):
    file = root / path
    if not file.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"path: got {path}, want a file under {root}")
    return file.resolve().relative_to(root.resolve()).as_posix()


def _files(root):
    files = {file.relative_to(root) for file in root.rglob("*") if file.is_file()}
    hidden = {file for file in files if any(part[0] == "." for part in file.parts)}
    return {file.as_posix() for file in files - hidden - {Path(NAME)}}


def _fault(name, entry, root):
    file = root / name
    if entry is None:
        if file.is_file():
            return f"{file}: unlisted: not in {NAME}"
        # The whole folder is in a checkout alone, and a package is asked for more than it holds.
        hint = "; a checkout has it: set PALIMPSEST_DATA to its folder data" if paths.INSTALLED else ""
        return f"{file}: missing, and not in {NAME}{hint}"
    if not file.is_file():
        return f"{file}: missing, but listed in {NAME}"
    found = _digest(file)
    if found["bytes"] < entry["bytes"]:
        return f"{file}: truncated: {found['bytes']} of {entry['bytes']} bytes"
    if found["sha256"] != entry["sha256"] or found["bytes"] != entry["bytes"]:
        return f"{file}: altered: its SHA-256 is {found['sha256']}, {NAME} has {entry['sha256']}"
    return None


def _digest(file):
    with file.open("rb") as stream:
        return {"sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "bytes": file.stat().st_size}


def _lock(root):
    # Outside data/, so that no lock file is ever mistaken for data.
    paths.CACHE.mkdir(parents=True, exist_ok=True)
    return FileLock(paths.CACHE / f"manifest-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]}.lock")
