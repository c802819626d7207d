"""Rows for the tests of the cache and of its workers, which import this file."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

PATIENCE = 60  # seconds that a broken wait lasts; a working one ends as soon as it can


def double(x: int) -> int:
    return 2 * x


def triple(x: int) -> int:
    return 3 * x


def worker(call: int) -> int:
    return os.getpid()


def training(seed: int) -> dict:
    """Losses of a small network on random data, its weights' sum, and what numpy makes of them."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(256, 64, generator=generator), torch.randn(256, 8, generator=generator)
    weight = torch.randn(64, 8, generator=generator).requires_grad_()
    losses = []
    for _ in range(20):
        loss = ((x @ weight).tanh() - y).square().mean()
        (gradient,) = torch.autograd.grad(loss, weight)
        weight = (weight - 0.1 * gradient).detach().requires_grad_()
        losses.append(loss.item())
    values = weight.detach().numpy()
    return {"losses": losses, "sum": float(values.sum()), "rank": float(np.linalg.norm(values @ values.T))}


_running: list[int] = []


def threads(call: int) -> list[int]:
    """The threads that torch computes with, and the rows that this process computes at the moment."""
    _running.append(call)
    time.sleep(0.2)
    together = len(_running)
    _running.remove(call)
    return [torch.get_num_threads(), together]


def task(name: str, folder: str, after: str | None = None, end: str | None = None) -> str:
    """A row; it waits until the row `after` is finished, and dies as `end` says: "once" the first time only."""
    deadline = time.monotonic() + PATIENCE
    while after and not Path(folder, after).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    if end == "error":
        raise ValueError("a bad row")
    if end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "once" and not Path(folder, f"{name} died").exists():
        Path(folder, f"{name} died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "never":
        with FileLock(Path(folder, "alive.lock")):
            Path(folder, name).touch()
            time.sleep(10 * PATIENCE)
    with open(Path(folder, "order"), "a") as file:
        file.write(name)
    Path(folder, name).touch()
    return f"row {name}"
