"""One file for deposit: the tracked sources, the recorded results among them, and the built site.

The same commit and the same site give the same bytes.
"""

import gzip
import io
import os
import subprocess
import tarfile
from pathlib import Path

from palimpsest import __version__
from palimpsest.runs.paths import BUILD, ROOT


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
    commit, seconds = _git(root, "log", "-1", "--format=%h %ct").split()
    files = {path: root / path for path in _git(root, "ls-files").splitlines()}
    pages = (path for path in (build_dir / "html").rglob("*") if path.is_file())
    files |= {f"site/{path.relative_to(build_dir / 'html').as_posix()}": path for path in pages}
    name = f"palimpsest-{__version__}-{commit}"
    target = build_dir / f"{name}.tar.gz"
    partial = target.with_suffix(".part")
    with partial.open("wb") as raw:
        with (
            gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as zipped,
            tarfile.TarFile(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for path in sorted(files):
                data = files[path].read_bytes()
                entry = tarfile.TarInfo(f"{name}/{path}")
                entry.size, entry.mtime = len(data), int(seconds)
                entry.mode = 0o755 if os.access(files[path], os.X_OK) else 0o644
                archive.addfile(entry, io.BytesIO(data))
        raw.flush()
        os.fsync(raw.fileno())
    os.replace(partial, target)
    return target


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", root, *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    print(write())
