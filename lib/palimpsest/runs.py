"""A content-addressed cache of computed rows, a worker pool over it, and the record of the environment.

A result is stored under the hash of its configuration, of the source of every project module that computed it,
of the shipped data and of the numerical environment. Change any of them and it is computed anew; change nothing
and it is read back. Nothing else decides, so a cache can be deleted at any time.
"""

import ast
import hashlib
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context, parent_process
from pathlib import Path

import torch
import yaml
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from tqdm import tqdm

from . import paths

# PyYAML's loader in C, which not every build has, takes a tenth of the time, and every file that is opened costs one
# reading of the manifest.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def write_atomic(path: Path, write: Callable[[str], object]) -> None:
    """Call `write(temporary path)`, then move the result to `path` in one step; a kill leaves the old file.

    Raises OSError naming `path`, not the temporary file, when the disk refuses.
    """
    try:
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
    except OSError as error:
        raise OSError(error.errno, f"could not write {path}: {error.strerror or error}") from error


@contextmanager
def progress_bar(*, total: int, desc: str | None, initial: int = 0) -> Iterator[tqdm]:
    """A progress bar on standard error, or in the file that `PALIMPSEST_PROGRESS` names.

    The notebook gate sets that variable: a bar written into a notebook would make its outputs differ from run to
    run. `desc=None` gives a silent bar.
    """
    target = os.environ.get("PALIMPSEST_PROGRESS")
    silent = desc is None
    with (
        open(target, "a", buffering=1) if target and not silent else nullcontext(sys.stderr) as file,
        tqdm(total=total, initial=initial, desc=desc, file=file, disable=silent, dynamic_ncols=True) as bar,
    ):
        yield bar


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


def installed(package: str) -> str:
    """The version of `package`, or "absent"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


NUMERICAL = ("numpy", "scipy", "scikit-learn", "cleanlab", "transformers", "tokenizers")
"""Packages besides torch that compute or feed what is measured."""


def numerical_environment() -> dict:
    """What can change a result on the same source and data."""
    return {
        "torch": torch.__version__,
        **{name: installed(name) for name in NUMERICAL},
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def environment() -> dict:
    """The manifest stored beside recorded results: machine, versions and commit."""
    return {
        **numerical_environment(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "triton": installed("triton"),
        "commit": _commit(),
    }


def _commit() -> str:
    command = ["git", "-C", str(paths.ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git, or no repository: an unpacked archive
        return "unknown"


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
    root = Path(__file__).parent
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


def _start_worker() -> None:
    # One thread a worker: sums keep their order, so the rows do not depend on how many workers there are.
    torch.set_num_threads(1)
    # An interrupt is the parent's to handle: it calls off what waits, and the step under way is kept.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A killed parent cannot stop its workers; without this they would compute on for nobody.
    parent_process().join()
    os._exit(1)


@cache
def _pool(workers: int) -> ProcessPoolExecutor:
    """The workers of this process. They live on between calls, because each spends seconds on imports, and so
    that all steps of a run see the source as it was when the run began."""
    return ProcessPoolExecutor(workers, get_context("spawn"), _start_worker)


def _workers() -> int:
    given = os.environ.get("PALIMPSEST_WORKERS", str(os.cpu_count() or 1))
    if not given.isdecimal() or int(given) < 1:
        raise ValueError(f"PALIMPSEST_WORKERS: got {given!r}, want a positive integer")
    return max(1, int(given) // _launched()[1])


def _launched() -> tuple[int, int]:
    """(rank, number of processes) under `accelerate launch` or torchrun, else (0, 1)."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def run_all(function: Callable, configs: list[dict], *, show: str) -> list:
    """`cached(function, config)` for every configuration, in order, on as many processes as there are cores.

    `PALIMPSEST_WORKERS` sets another number. Under `accelerate launch` each process begins with its own share of
    the configurations and goes on with the others': those that another process computes it waits for, so that all
    return all results, the same as one process would. They must share one file system. A failing configuration
    stops the rest and names itself; what was finished stays in the cache, so a second call goes on from there.
    Raises RuntimeError, also when a worker process dies.
    """
    pool = _pool(_workers())
    rank, processes = _launched()
    shares = [range(first, len(configs), processes) for first in range(processes)]
    order = [index for share in (*shares[rank:], *shares[:rank]) for index in share]
    with progress_bar(total=len(configs), desc=show) as bar:
        futures = {}
        try:
            for index in order:
                futures[pool.submit(cached, function, configs[index])] = index
            for future in as_completed(futures):
                future.result()
                bar.update()
        except BrokenProcessPool as error:
            _pool.cache_clear()
            raise RuntimeError(
                f"a worker process that computed {function.__name__} died: it was killed, or memory ran out. "
                "What was finished is kept; run again, with a smaller PALIMPSEST_WORKERS if memory is short"
            ) from error
        except Exception as error:
            raise RuntimeError(f"{function.__name__}({configs[futures[future]]}) failed: {error}") from error
        finally:  # also when the user interrupts
            for waiting in futures:
                waiting.cancel()
    return [future.result() for future in sorted(futures, key=futures.get)]
