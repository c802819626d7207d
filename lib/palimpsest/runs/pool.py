"""A worker pool over the cache."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing import get_context, parent_process

import torch

from .cache import cached
from .progress import progress_bar


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
