"""One file for deposit: the tracked sources, data and recorded results among them, the built site, the PDF edition if
there is one, what the deposit says of itself (`crate`), and the SHA-256 of each file.

The same commit and the same site give the same bytes.
"""

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

from palimpsest import __version__
from palimpsest.publish import crate
from palimpsest.runs.paths import BUILD, ROOT

PDF = "palimpsest.pdf"
SUMS = "SHA256SUMS"
"""What `sha256sum --check` reads."""


def write(root: Path = ROOT, build_dir: Path = BUILD) -> Path:
    """Write `build_dir/palimpsest-VERSION-COMMIT.tar.gz` and return its path.

    Raises `ValueError` if a tracked file differs from the commit, `FileNotFoundError` if there is no site.
    """
    changed = _git(root, "status", "--porcelain", "--untracked-files=no").splitlines()
    if changed:
        raise ValueError(
            f"root: {len(changed)} tracked files differ from the commit ({changed[0]}); commit them first"
        )
    if not (build_dir / "html" / "index.html").is_file():
        raise FileNotFoundError(f"the site was not built: {build_dir / 'html'} holds no index.html; run `make book`")
    commit, seconds, date = _git(root, "log", "-1", "--format=%h %ct %cs").split()
    files = {path: root / path for path in _git(root, "ls-files", "-z").split("\0") if path}
    pages = (path for path in (build_dir / "html").rglob("*") if path.is_file())
    files |= {f"site/{path.relative_to(build_dir / 'html').as_posix()}": path for path in pages}
    if (build_dir / PDF).is_file():
        files[PDF] = build_dir / PDF
    described = json.dumps(crate.describe(root, files, commit, date), ensure_ascii=False, indent=1).encode()
    name, sums = f"palimpsest-{__version__}-{commit}", []
    target = build_dir / f"{name}.tar.gz"
    partial = target.with_suffix(".part")
    with partial.open("wb") as raw:
        with (
            gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as zipped,
            tarfile.TarFile(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):

            def add(path: str, data: bytes, mode: int = 0o644) -> None:
                sums.append(f"{hashlib.sha256(data).hexdigest()}  {path}\n")
                # Owner and group stay at 0 and without a name.
                entry = tarfile.TarInfo(f"{name}/{path}")
                entry.size, entry.mtime, entry.mode = len(data), int(seconds), mode
                archive.addfile(entry, io.BytesIO(data))

            for path in sorted(files):
                add(path, files[path].read_bytes(), 0o755 if os.access(files[path], os.X_OK) else 0o644)
            add(crate.NAME, described)
            add(SUMS, "".join(sums).encode())
        raw.flush()
        os.fsync(raw.fileno())
    os.replace(partial, target)
    return target


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", root, *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    print(write())
