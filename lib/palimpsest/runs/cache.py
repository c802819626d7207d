"""A content-addressed cache of computed rows.

A result is stored under the hash of its configuration, of the source of every project module that computed it,
of the shipped data and of the numerical environment. Change any of them and it is computed anew; change nothing
and it is read back. Nothing else decides, so a cache can be deleted at any time.
"""

import ast
import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import torch
import yaml
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save as to_bytes

from . import paths
from .environment import numerical_environment
from .files import write_atomic

# PyYAML's loader in C, which not every build has, takes a tenth of the time, and every file that is opened costs one
# reading of the manifest.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def module_closure(module: str) -> tuple[str, ...]:
    """`module` and every `palimpsest` module that it imports, directly or not, sorted by name."""
    seen, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        spec = importlib.util.find_spec(name)
        package = name if spec.submodule_search_locations else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(Path(spec.origin).read_bytes())):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                # A submodule taken out of a package does not depend on its neighbours there.
                inside = [f"{base}.{alias.name}" for alias in node.names]
                targets = [name if _is_module(name) else base for name in inside]
            else:
                continue
            waiting += [target for target in targets if target.split(".")[0] == "palimpsest"]
    return tuple(sorted(seen))


def _is_module(name: str) -> bool:
    if name.split(".")[0] != "palimpsest":
        return False
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@cache
def source_digest(module: str) -> str:
    """sha256 over the source of `module_closure(module)`."""
    digest = hashlib.sha256()
    for name in module_closure(module):
        digest.update(name.encode() + b"\0")
        digest.update(Path(importlib.util.find_spec(name).origin).read_bytes())
    return digest.hexdigest()


@cache
def shipped_digest(module: str) -> str:
    """sha256 over the manifest's entries of the shipped inputs that `module` can read.

    A folder of `data/` is read by the module of its name (`data/fashion_mnist` by `palimpsest.data.fashion_mnist`):
    it counts where `module` imports that one, directly or not, and where there is none.
    """
    imported, project = _names(module_closure(module)), _names(_modules())
    entries = yaml.load((paths.DATA / "MANIFEST").read_text(), LOADER)
    folders = {e["path"]: e["path"].partition("/")[0] for e in entries}
    unread = (project - imported) | {"claims", "results", "bench"}
    lines = sorted(f"{e['path']} {e['sha256']}" for e in entries if folders[e["path"]] not in unread)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _names(modules: Iterable[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in modules}


@cache
def _modules() -> tuple[str, ...]:
    """Every module of the project, without importing any."""
    root = Path(__file__).parents[1]
    return tuple(
        ".".join(("palimpsest", *file.relative_to(root).with_suffix("").parts)) for file in root.rglob("*.py")
    )


def key(function: Callable, config: dict) -> str:
    """The address of `function(**config)`: 64 hexadecimal digits."""
    content = {
        "function": f"{function.__module__}.{function.__qualname__}",
        "config": config,
        "source": source_digest(function.__module__),
        "data": shipped_digest(function.__module__),
        "environment": numerical_environment(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def cached(function: Callable, config: dict):
    """`function(**config)`, computed once; its value must survive JSON. Two processes never compute it twice:
    the second waits for the first."""
    file = paths.CACHE / function.__name__ / f"{key(function, config)}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if file.exists():
            return json.loads(file.read_text())["value"]
        value = function(**config)
        text = json.dumps({"config": config, "value": value})
        write_atomic(file, lambda path: Path(path).write_text(text))
    # Through JSON also on the first call, so that a cold and a warm run return the same types.
    return json.loads(text)["value"]


def artifact(function: Callable, config: dict) -> dict[str, torch.Tensor]:
    """`function(**config)`, a dictionary of tensors, computed once and kept as safetensors. As `cached`."""
    file = paths.CACHE / function.__name__ / f"{key(function, config)}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if not file.exists():
            content = to_bytes({name: value.cpu().contiguous() for name, value in function(**config).items()})
            write_atomic(file, lambda path: Path(path).write_bytes(content))
        with safe_open(file, framework="pt") as stored:
            return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
