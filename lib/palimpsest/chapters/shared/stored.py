"""What a study has computed, on disk: one file an arm, and one table of what they say.

`data/studies/<name>/` holds
- `arms/<arm>.safetensors`: the predictions of one arm, float16 (labels: uint8), and in the header, as JSON, the arm,
  what was counted while it was computed, and what computed it. It is written once, whole, and never again;
- `starts/<arm>.safetensors`: the network that later arms start from, where an arm leaves one;
- `rows.json`: a row for each arm with the numbers that are measured from its predictions.
Every file is listed in `data/MANIFEST`. A file of an arm that is not listed was being written when its process was
killed; it does not count, and the arm is computed again.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from palimpsest.data import manifest
from palimpsest.runs import paths, write_atomic

Arm = dict[str, str | int | float]
"""What tells an arm from the others of its study: a few fields, "seed" among them."""

LIMIT = 25_000_000
"""Bytes that a study may have in the repository."""


def folder(study: str) -> Path:
    return paths.DATA / "studies" / study


def name_of(arm: Arm) -> str:
    """The arm as a file name: its values, joined."""
    return "_".join(re.sub(r"[^A-Za-z0-9.+-]+", "-", str(value)).strip("-") for value in arm.values())


def file_of(study: str, arm: Arm) -> Path:
    return folder(study) / "arms" / f"{name_of(arm)}.safetensors"


def start_of(study: str, arm: Arm) -> Path:
    return folder(study) / "starts" / f"{name_of(arm)}.safetensors"


def rounded(predictions: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The predictions as they are stored, and as everything is measured on them: float16, integers as uint8.

    Raises ValueError for a value that is not finite in float16, an integer outside 0 .. 255, and another dtype.
    """
    kept = {}
    for name, values in predictions.items():
        values = np.asarray(values)
        kind = {"f": np.float16, "i": np.uint8, "u": np.uint8}.get(values.dtype.kind)
        if kind is None:
            raise ValueError(f"predictions[{name!r}]: got dtype {values.dtype}, want numbers")
        with np.errstate(over="ignore", invalid="ignore"):
            kept[name] = np.ascontiguousarray(values.astype(kind))
        whole = np.isfinite(kept[name]).all() if kind is np.float16 else (kept[name] == values).all()
        if not whole:
            limit = "finite values within ±65504" if kind is np.float16 else "integers in 0 .. 255"
            raise ValueError(f"predictions[{name!r}]: got values in {values.min()} .. {values.max()}, want {limit}")
    return kept


def halved(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A network's state as starts are shipped: weights of two or more axes in float16, all else as it is."""
    return {name: value.half() if value.ndim > 1 else value for name, value in state.items()}


def write(
    study: str,
    arm: Arm,
    predictions: dict[str, np.ndarray],
    about: dict,
    start: dict[str, torch.Tensor] | None,
    *,
    wanted: int,
    made_by: str,
) -> None:
    """Keep an arm. `predictions` are `rounded`, `about` must survive JSON; `wanted`: the arms of the whole study.

    Raises ValueError, and keeps nothing, where a study of such arms would exceed `LIMIT`.
    """
    content = save(predictions, {"row": json.dumps({"arm": arm, **about}, allow_nan=False)})
    files = {file_of(study, arm): content}
    if start is not None:
        files[start_of(study, arm)] = save_tensors({key: value.cpu().contiguous() for key, value in start.items()})
    arms, starts = (
        [len(data) for file, data in files.items() if file.parent.name == part]
        + [file.stat().st_size for file in (folder(study) / part).glob("*") if file not in files]
        for part in ("arms", "starts")
    )
    expected = wanted * sum(arms) / len(arms) + sum(starts)
    if expected > LIMIT:
        raise ValueError(
            f"study {study}: {wanted} arms like these take {expected / 1e6:.0f} MB, want at most {LIMIT / 1e6:.0f}; "
            "keep the predictions of fewer samples"
        )
    for file, data in files.items():
        write_atomic(file, lambda path, data=data: Path(path).write_bytes(data))
    manifest.update([file.relative_to(paths.DATA) for file in files], made_by=made_by)


def header(file: Path) -> dict:
    """{"arm", "counted", "made"} of an arm's file. ValueError that names it if it cannot be read."""
    try:
        with safe_open(file, framework="np") as stored:
            return json.loads(stored.metadata()["row"])
    except (SafetensorError, TypeError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{file}: not the file of an arm: {error}") from error


def predictions(study: str, arm: Arm) -> dict[str, np.ndarray]:
    """The stored predictions. ValueError, naming the file, if it was cut short or altered, or holds another arm."""
    file = manifest.verify(file_of(study, arm).relative_to(paths.DATA))
    if (found := header(file)["arm"]) != arm:
        raise ValueError(f"{file}: holds the arm {found}, want {arm}")
    return load(file.read_bytes())


def start(study: str, arm: Arm) -> dict[str, torch.Tensor]:
    """The network that `arm` left, as `halved`. ValueError as `predictions`."""
    return load_tensors(manifest.verify(start_of(study, arm).relative_to(paths.DATA)).read_bytes())


def finished(study: str, arms: Iterable[Arm]) -> list[Arm]:
    """Those of `arms` whose files are there, listed and unharmed, in their order.

    Raises ValueError that names every file that was cut short, altered or lost, is the file of no arm, or holds
    another arm than its name says; and two arms of one name.
    """
    by_file: dict[Path, Arm] = {}
    for arm in arms:
        if (file := file_of(study, arm)) in by_file:
            raise ValueError(f"arms: got {by_file[file]} and {arm}, want file names that differ, not {file.name}")
        by_file[file] = arm
    place = f"{folder(study).relative_to(paths.DATA).as_posix()}/"
    listed = {paths.DATA / path for path in manifest.read() if path.startswith((f"{place}arms/", f"{place}starts/"))}
    strangers = sorted(map(str, listed - by_file.keys() - {start_of(study, arm) for arm in by_file.values()}))
    if strangers:
        raise ValueError(f"{strangers[0]}: of no arm of this study ({len(strangers)} such files); remove them")
    manifest.check([file.relative_to(paths.DATA) for file in listed])
    for file in by_file.keys() & listed:
        if (found := header(file)["arm"]) != by_file[file]:
            raise ValueError(f"{file}: holds the arm {found}, want {by_file[file]}")
    return [arm for file, arm in by_file.items() if file in listed]
