"""The wheel holds its data: setuptools runs this (pyproject.toml), and `data/` becomes `palimpsest/shipped/`.

Left out are the models of the SAU experiment, 16 of 39 MB, which no command but that experiment reads. MANIFEST is
cut down to the files that are there. Run by the build alone, so nothing of the project is imported.
"""

import re
import shutil
from pathlib import Path

from setuptools.command.build_py import build_py

LEFT_OUT = ("sau_models",)
"""Folders of `data/`."""


class BuildWithData(build_py):
    """setuptools' step that gathers the files, then the data too. An editable install reads that of the checkout."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            ship(Path("data"), Path(self.build_lib, "palimpsest", "shipped"))


def ship(data: Path, target: Path) -> None:
    """Copy the folder `data` to `target`, which is emptied first, without `LEFT_OUT` and hidden files.

    Raises ValueError where `data` has no MANIFEST: a source distribution without its data would build an empty wheel.
    """
    if not (data / "MANIFEST").is_file():
        raise ValueError(f"data: {data.resolve()} has no MANIFEST, want the checkout's data/")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(data, target, ignore=shutil.ignore_patterns(".*", *LEFT_OUT))
    head, *entries = re.split(r"^(?=- path: )", (data / "MANIFEST").read_text(encoding="utf-8"), flags=re.MULTILINE)
    kept = [entry for entry in entries if not entry.startswith(tuple(f"- path: {name}/" for name in LEFT_OUT))]
    (target / "MANIFEST").write_text(head + "".join(kept), encoding="utf-8")
