"""Time every op beside its peers, and refuse an op that is wrong. One CSV per op and device.

An op takes part by a module ``kernels/<op>/bench.py`` that defines

    SHAPES, DTYPES   {"cpu": (...), "cuda": (...)}: shapes are tuples that only this module interprets
    DIRECTIONS       ("forward",) or ("forward", "backward")
    INPUTS           {name: inputs.Draw}, the arguments of a case in the order in which they are drawn
    ours             (**inputs) -> what is timed as "palimpsest"
    eager            (**inputs) -> the formula as one would write it in torch; also what torch.compile is given
    PEERS            {name: (**inputs) -> result}; an ImportError or a NotRun tells why a peer cannot be had
    bytes_moved      (shape, dtype, direction) -> least traffic: inputs read once, outputs written once
    agreement        (**inputs) -> iterable of (what, computed, exact, admitted error), float64 being exact

Peers that torch cannot differentiate are timed forward only.
"""

import csv
import ctypes
import importlib
import importlib.metadata
import math
import os
import pkgutil
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from tqdm import tqdm

from palimpsest import kernels
from palimpsest.kernels import inputs as draws

COLUMNS = (
    *("op", "peer", "shape", "dtype", "direction", "p20_ms", "p50_ms", "p80_ms", "gb_per_s", "share_of_copy"),
    *("speed_vs_eager", "speed_vs_compile", "peak_mb", "note"),
    *("device", "threads", "torch", "triton", "date", "commit"),
)
"""One row per measurement. Times are quantiles of a call; gb_per_s is bytes_moved over p50; share_of_copy is
relative to a large copy on the same device; speed_vs_* is that peer's p50 over this one's, above 1 if faster;
peak_mb is memory above the inputs; a peer without times says why in note."""

SECONDS_PER_PEER = 1.0
"""Rounds are added until every peer has run this long, within ROUNDS."""
ROUNDS = (5, 25)
SAMPLE_MS = 2.0
"""A sample repeats short calls until it lasts this long, far above the clock's step, and long enough that a first
call, which finds the caches full of another peer's, counts for little."""
WARM_UPS = 5
"""Calls out of which the quickest tells how often a sample repeats. A first call may take ten times as long."""
COPY_BYTES = {"cpu": 1 << 27, "cuda": 1 << 30}


class NotRun(Exception):
    """A peer cannot be measured here; the message says why."""


class WrongResultError(ValueError):
    """An op disagrees with float64, so it gets no benchmark."""


def available() -> list[str]:
    """Names of the ops that have a benchmark, sorted."""
    folders = (Path(kernels.__path__[0]) / module.name for module in pkgutil.iter_modules(kernels.__path__))
    return sorted(folder.name for folder in folders if (folder / "bench.py").is_file())


def run(ops: list[str] | None = None, device: str = "cpu", *, out: Path) -> list[Path]:
    """Measure and write ``<out>/<op>.<device>.csv`` for each op, replacing it whole.

    Args:
        ops: names out of `available()`, or None for all.
        device: "cpu" or "cuda".
        out: folder of the CSV files, made if missing.

    Returns:
        The files written.

    Raises:
        ValueError: unknown op or device, or no CUDA device where one is asked for.
        WrongResultError: an op fails its check against float64; the files of earlier ops stay.
    """
    known = available()
    for name in ops or []:
        if name not in known:
            raise ValueError(f"ops: got {name!r}, want some of {', '.join(known)}")
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device: got {device!r}, want 'cpu' or 'cuda'")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: got 'cuda', but torch finds no CUDA device here")
    if device == "cpu":
        torch.set_num_threads(1)  # how well torch shares its own operations among threads is not what is compared
    _keep_freed_memory()
    environment = _environment(device)
    copy_rate = _copy_rate(device)
    written = []
    for name in ops or known:
        op = importlib.import_module(f"palimpsest.kernels.{name}.bench")
        cases = [(shape, dtype) for shape in op.SHAPES[device] for dtype in op.DTYPES[device]]
        for shape, dtype in cases[:1] + cases[-1:]:
            _check(name, op, draws.make(op.INPUTS, shape, dtype, device))
        rows = []
        for shape, dtype in tqdm(cases, desc=name, disable=None):
            for direction in op.DIRECTIONS:
                rows += _measure(op, shape, dtype, direction, device, copy_rate)
        path = Path(out) / f"{name}.{device}.csv"
        _write(path, [{"op": name, **row, **environment} for row in rows])
        written.append(path)
    return written


def _check(name, op, inputs):
    for what, computed, exact, admitted in op.agreement(**inputs):
        # Negated, so that a NaN anywhere fails.
        if not ((computed.double() - exact).abs() <= admitted).all():
            raise WrongResultError(f"ops: {name} gives a wrong {what}; its benchmark is refused until it agrees")


def _measure(op, shape, dtype, direction, device, copy_rate):
    """Rows of one case."""
    inputs = draws.make(op.INPUTS, shape, dtype, device)
    torch._dynamo.reset()
    peers = {
        "palimpsest": op.ours,
        "eager": op.eager,
        "torch.compile": torch.compile(op.eager, dynamic=False),
        **op.PEERS,
    }
    calls, peaks, notes = {}, {}, {}
    for peer, function in peers.items():
        try:
            call = _prepare(function, inputs, direction)
            call()
            calls[peer], peaks[peer] = call, _peak_mb(call, device)
        except Exception as error:
            if peer == "palimpsest":
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            notes[peer] = f"not run: {reason}"
    times = _interleave(calls, device)
    rows = []
    for peer in peers:
        row = {"peer": peer, "shape": "x".join(map(str, shape)), "dtype": str(dtype).removeprefix("torch.")}
        row |= {"direction": direction, "note": notes.get(peer, "")}
        if peer in times:
            p20, p50, p80 = _quantiles(times[peer])
            rate = op.bytes_moved(shape, dtype, direction) / p50 / 1e6
            row |= {"p20_ms": p20, "p50_ms": p50, "p80_ms": p80, "gb_per_s": rate, "peak_mb": peaks[peer]}
            row["share_of_copy"] = rate / copy_rate
            for column, other in (("speed_vs_eager", "eager"), ("speed_vs_compile", "torch.compile")):
                if other in times:
                    row[column] = statistics.median(times[other]) / p50
        rows.append(row)
    return rows


def _prepare(function, inputs, direction):
    """A call without arguments. Backward means the gradients of all floating inputs from a kept forward."""
    if direction == "forward":
        return lambda: function(**inputs)
    inputs = {k: x.detach().requires_grad_() if x.is_floating_point() else x for k, x in inputs.items()}
    result = function(**inputs)
    if not (isinstance(result, torch.Tensor) and result.requires_grad):
        raise NotRun("no gradient")
    wanted = [x for x in inputs.values() if x.requires_grad]
    weight = torch.ones_like(result)
    return lambda: torch.autograd.grad(result, wanted, weight, retain_graph=True)


def _interleave(calls, device):
    """{peer: milliseconds of each sample}; peers take turns, so that a slow spell meets them all, in an order drawn
    anew for each round, so that none always comes after the one that leaves the caches worst."""
    once = {peer: min(t for _ in range(WARM_UPS) for t in _sample(call, 1, device)) for peer, call in calls.items()}
    repeats = {peer: max(1, math.ceil(SAMPLE_MS / once[peer])) for peer in calls}
    longest = max(once[peer] * repeats[peer] for peer in calls)
    rounds = min(max(math.ceil(1000 * SECONDS_PER_PEER / longest), ROUNDS[0]), ROUNDS[1])
    times, order = {peer: [] for peer in calls}, random.Random(0)
    for _ in range(rounds):
        for peer in order.sample(list(calls), len(calls)):
            times[peer] += _sample(calls[peer], repeats[peer], device)
    return times


def _sample(call, repeats, device):
    """Milliseconds per call: the mean of `repeats` on CPU; on CUDA each call by events after a cache flush."""
    if device == "cuda":
        from triton.testing import do_bench

        return do_bench(call, warmup=5, rep=20, return_mode="all")
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return [(time.perf_counter() - start) * 1e3 / repeats]


def _quantiles(samples):
    p20, _, _, p80 = statistics.quantiles(samples, n=5, method="inclusive")
    return p20, statistics.median(samples), p80


def _peak_mb(call, device):
    """Most memory in MB above what was held: torch's count on CUDA, resident pages on Linux, else None."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    if not sys.platform.startswith("linux"):
        return None
    ctypes.CDLL(None).malloc_trim(0)  # pages that the allocator keeps would be reused unseen
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = _resident_kb("VmRSS")
    call()
    return (_resident_kb("VmHWM") - before) * 1024 / 1e6


def _keep_freed_memory():
    """Have glibc keep what is freed. By itself it gives large blocks back to the system or not, as earlier
    allocations decide, and the same call then takes up to three times as long for the pages that it gets anew."""
    if platform.libc_ver()[0] == "glibc":
        mmap_threshold, trim_threshold = -3, -1  # M_... of malloc.h; the first admits at most 32 MB
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 32 << 20)
        libc.mallopt(trim_threshold, 2**31 - 1)


def _resident_kb(field):
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(field))


def _copy_rate(device):
    """GB/s, read and write counted, of a copy too large for any cache: the roof of a memory-bound kernel."""
    source = torch.zeros(COPY_BYTES[device] // 4, device=device)
    target = torch.zeros_like(source)
    times = _interleave({"copy": lambda: target.copy_(source)}, device)["copy"]
    return 2 * COPY_BYTES[device] / statistics.median(times) / 1e6


def _environment(device):
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = "none"
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "triton": triton,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit or "none",
    }


def _processor():
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _write(path, rows):
    """Whole or not at all: a temporary file beside it, synced, then renamed over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}
                for row in rows
            )
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
