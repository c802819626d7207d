"""A content-addressed cache of computed rows.

A result is stored under the hash of its configuration, of the source that can have computed it (`sources`), of the
shipped data that this source can read, and of the numerical environment. Change any of them and it is computed anew;
change nothing, or only comments, docstrings and formatting, and it is read back. Nothing else decides, so a cache can
be deleted at any time.
"""

import ast
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable
from functools import cache

import torch
import yaml
from filelock import FileLock
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from . import paths, seals
from .machine import numerical_environment
from .sources import Closure, closure, project

# PyYAML's loader in C, which not every build has, takes a tenth of the time, and every file that is opened costs one
# reading of the manifest.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

UNREAD = frozenset({"bench", "capital", "claims", "results", "studies"})
"""Folders of `data/` without a reader among the experiments: outputs, and the example of `palimpsest unlearn`."""


@cache
def readers() -> dict[str, set[str]]:
    """By folder of `data/`, the modules of `palimpsest.data` that declare it: `FOLDER = "fashion_mnist"`."""
    found = defaultdict(set)
    for name, file in project().items():
        if name.startswith("palimpsest.data."):
            for node in ast.parse(file.read_bytes()).body:
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FOLDER":
                    found[ast.literal_eval(node.value)].add(name)
    return found


def shipped_digest(source: Closure) -> str:
    """sha256 over the manifest's entries of the shipped files that `source` can read.

    A folder of `data/` counts where a module that declares it is in reach, where a string names it or a path in it,
    and where nothing declares it and it is not among `UNREAD`.
    """
    named = {text.partition("/")[0] for text in source.texts if "/" in text} | (source.texts - UNREAD)

    def counts(folder: str) -> bool:
        declared = readers().get(folder)
        return folder in named or (not source.modules.isdisjoint(declared) if declared else folder not in UNREAD)

    lines = sorted(f"{path} {sha256}" for path, sha256 in _shipped() if counts(path.partition("/")[0]))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def shipped(function: Callable) -> str:
    """`shipped_digest` of what `function` can read."""
    return shipped_digest(closure(function))


@cache
def _shipped() -> list[tuple[str, str]]:
    entries = yaml.load((paths.DATA / "MANIFEST").read_text(), LOADER)
    return [(entry["path"], entry["sha256"]) for entry in entries]


def key(function: Callable, config: dict) -> str:
    """The address of `function(**config)`: 64 hexadecimal digits."""
    source = closure(function)
    content = {
        "function": f"{function.__module__}.{function.__qualname__}",
        "config": config,
        "source": source.digest,
        "data": shipped_digest(source),
        "environment": numerical_environment(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def cached(function: Callable, config: dict):
    """`function(**config)`, computed once; its value must survive JSON. Two processes never compute it twice:
    the second waits for the first. ValueError, naming the file, for an entry that was altered or cut short."""
    file = paths.CACHE / function.__name__ / f"{key(function, config)}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if not file.exists():
            seals.write_json(file, {"config": config, "value": function(**config)})
        # Through JSON also on the first call, so that a cold and a warm run return the same types.
        return seals.read_json(file)["value"]


def artifact(function: Callable, config: dict) -> dict[str, torch.Tensor]:
    """`function(**config)`, a dictionary of tensors, computed once and kept as safetensors with a seal behind it. As
    `cached`."""
    file = paths.CACHE / function.__name__ / f"{key(function, config)}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if not file.exists():
            seals.write(file, to_bytes({n: value.cpu().contiguous() for n, value in function(**config).items()}))
        return from_bytes(seals.read(file))
