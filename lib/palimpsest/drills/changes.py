"""The drill of changes: one byte of a file made another, and the file read.

A change counts as caught where the reader is refused with a ValueError that names the file, as right where the value
is what it was (a blank in JSON), as silent where it is another, and as foreign where another error comes.
"""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from palimpsest import runs, training
from palimpsest.data import manifest
from palimpsest.runs import paths
from palimpsest.training import checkpoints

HEADER, BESIDES = 16, 16
"""Bytes changed of each file: so many from its beginning, and so many others, the last among them."""


def block(name: str, seed: int) -> dict[str, int]:
    """How the changes of the files of `name` count, `HEADER` + `BESIDES` of each file (all of a smaller one)."""
    counts, rng = Counter(tried=0, right=0, caught=0, silent=0, foreign=0), np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as temporary, mock.patch.object(paths, "CACHE", Path(temporary) / "cache"):
        for file, read in FILES[name](Path(temporary)):
            want, content = read(), file.read_bytes()
            for position in positions(len(content), rng):
                changed = bytearray(content)
                changed[position] ^= int(rng.integers(1, 256))
                file.write_bytes(changed)
                counts["tried"] += 1
                counts[verdict(read, want, file)] += 1
            file.write_bytes(content)
    return dict(counts)


def positions(length: int, rng: np.random.Generator) -> list[int]:
    """Which bytes are changed, ascending."""
    if length <= HEADER + BESIDES:
        return list(range(length))
    drawn = HEADER + rng.choice(length - HEADER - 1, BESIDES - 1, replace=False)
    return [*range(HEADER), *sorted(drawn.tolist()), length - 1]


def verdict(read: Callable, want: object, file: Path) -> str:
    """What comes of reading a changed file."""
    try:
        return "right" if same(read(), want) else "silent"
    except ValueError as error:
        return "caught" if str(file) in str(error) else "foreign"
    except Exception:
        return "foreign"


def same(a: object, b: object) -> bool:
    if isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in b)
    if isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def shipped(folder: Path) -> Iterator[tuple[Path, Callable]]:
    """Every file under data/, in a folder of its own."""
    for name, entry in manifest.read().items():
        root = folder / "data"
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(paths.DATA / name, file)
        manifest.update([name], **{key: entry[key] for key in ("licence", "origin", "made_by")}, root=root)
        yield file, lambda file=file, root=root: manifest.verify(file, root).read_bytes()
        shutil.rmtree(root)


def checkpoint(folder: Path) -> Iterator[tuple[Path, Callable]]:
    """The files of a training that was stopped after its second epoch."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(1, 8, 1, 4, 4, generator=generator), torch.arange(8)[None] % 2
    with torch.random.fork_rng(devices=[]):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    training.fit([model], x, y, training.Recipe(2, 0.1, 4), seeds=[0], checkpoint=folder / "run")
    identity = json.loads((folder / "run" / "state.json").read_text())["identity"]
    for file in sorted((folder / "run").iterdir()):
        yield file, lambda: checkpoints.load(folder / "run", identity)


def row(number: int) -> dict:
    """A row such as chapters cache."""
    return {"accuracy": number / 7, "name": "a", "kept": list(range(number))}


def tensors(number: int) -> dict[str, torch.Tensor]:
    """Tensors such as chapters cache."""
    return {"weight": torch.arange(float(number)), "steps": torch.tensor([number])}


def entries(folder: Path) -> Iterator[tuple[Path, Callable]]:
    """An entry of either kind in an empty cache."""
    for function, keep in ((row, runs.cached), (tensors, runs.artifact)):
        config = {"number": 20}
        keep(function, config)
        (file,) = (f for f in (paths.CACHE / function.__name__).iterdir() if f.suffix != ".lock")
        yield file, lambda keep=keep, function=function, config=config: keep(function, config)


FILES = {"shipped files": shipped, "checkpoints": checkpoint, "cache entries": entries}
"""By what they are: a function of an empty folder that yields files, each with what reads it."""
