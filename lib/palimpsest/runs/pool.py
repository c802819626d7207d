"""Many rows at once, over the cache: on the cores of this machine, or on the workers of a dask scheduler.

With `PALIMPSEST_SCHEDULER` the rows go to a cluster (the extra `cluster` installs what this takes). On one machine:

    dask scheduler --host 127.0.0.1 --port 8786 &
    dask worker tcp://127.0.0.1:8786 --nworkers 2 --nthreads 1 &
    PALIMPSEST_SCHEDULER=tcp://127.0.0.1:8786 palimpsest run jscds

Under a batch system dask-jobqueue starts the workers; this prints the address to set:

    from dask_jobqueue import SLURMCluster
    cluster = SLURMCluster(cores=1, processes=1, memory="8GB", walltime="12:00:00")
    cluster.scale(jobs=64)
    print(cluster.scheduler_address)

On a machine with several GPUs dask-cuda starts one worker on each, which sees that one alone:

    dask scheduler --host 127.0.0.1 --port 8786 &
    dask cuda worker tcp://127.0.0.1:8786 --nthreads 1 &

Every worker runs the same checkout and versions, and shares one `PALIMPSEST_CACHE` with the process that asks: a step
of an experiment reads there what the step before it has left.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache, partial
from multiprocessing import get_context, parent_process

import torch

from .cache import cached
from .progress import progress_bar
from .sources import closure, triton_runs

TIMEOUT = 30
"""Seconds that a scheduler may take to answer."""

ALONE = threading.Lock()
"""Held by the row that this process computes: rows share torch's settings and generators."""


def run_all(function: Callable, configs: list[dict], *, show: str | None) -> list:
    """`cached(function, config)` for every configuration, in order, on as many processes as there are cores, or on
    the cluster whose scheduler `PALIMPSEST_SCHEDULER` names (tcp://host:port).

    `PALIMPSEST_WORKERS` sets another number of processes. Each row is computed with one thread, so rows do not depend
    on where they run; a row whose worker is lost on a cluster is computed on another one. A failing configuration
    stops the rest and names itself; what was finished stays in the cache, so a second call goes on from there.
    `show` labels the progress bar; None shows none.
    Raises RuntimeError, also when a worker process of this machine dies, and ValueError for a setting of the two
    variables that cannot be.
    """
    triton = triton_runs()
    call = partial(row, function, triton=triton, source=closure(function, triton=triton).digest)
    with progress_bar(total=len(configs), desc=show) as bar:
        return spread(call, configs, name=function.__name__, done=lambda value: bar.update())


def spread(call: Callable, arguments: list, *, name: str, done: Callable) -> list:
    """`call(argument)` for each, in order, where `run_all` computes: both must survive pickling.

    `done(value)` is called here as each value arrives. The first failure stops what waits. Raises RuntimeError that
    says `name`, and the argument that failed or that a worker died.
    """
    executor, futures = _executor(), {}
    try:
        for index, argument in enumerate(arguments):
            futures[executor.submit(call, argument)] = index
        for future in as_completed(futures):
            try:
                value = future.result()
            except BrokenProcessPool:
                raise
            except Exception as error:
                why = str(error) or type(error).__name__
                raise RuntimeError(f"{name}({arguments[futures[future]]}) failed: {why}") from error
            done(value)
    except BrokenProcessPool as error:
        _pool.cache_clear()
        raise RuntimeError(_why_broken(name, executor)) from error
    finally:  # also when the user interrupts
        for waiting in futures:
            waiting.cancel()
    return [future.result() for future in sorted(futures, key=futures.get)]


def drain() -> None:
    """Return when the rows under way on this machine are finished; what waits is called off. An interrupt meanwhile
    ends the workers."""
    pool = _pool(workers())
    _pool.cache_clear()
    try:
        pool.shutdown(cancel_futures=True)
    except KeyboardInterrupt:
        for process in list(pool._processes.values()):
            process.terminate()
        raise


def row(function: Callable, config: dict, *, triton: bool, source: str):
    """`cached(function, config)`, on a worker. `triton`, `source`: as in `alone`."""
    with alone(function, triton=triton, source=source):
        return cached(function, config)


@contextmanager
def alone(function: Callable, *, triton: bool, source: str) -> Iterator[None]:
    """Where a worker computes `function`: one row at a time, on one thread. `triton`, `source`: the closure's digest
    where the row was asked for; raises RuntimeError where this worker runs another source."""
    if closure(function, triton=triton).digest != source:
        raise RuntimeError("the worker runs another source than the process that asks; start both anew")
    with ALONE:
        # One thread per row: sums keep their order, so the rows do not depend on how many workers there are.
        torch.set_num_threads(1)
        yield


def _executor() -> Executor:
    address = os.environ.get("PALIMPSEST_SCHEDULER")
    return _cluster(address) if address else _pool(workers())


@cache
def _cluster(address: str) -> Executor:
    wanted = f"PALIMPSEST_SCHEDULER: got {address!r}, want the address of a running dask scheduler"
    try:
        from distributed import Client
    except ImportError as error:
        raise ValueError(f"{wanted} and the package distributed (the extra `cluster`)") from error
    try:
        return Client(address, timeout=TIMEOUT, set_as_default=False).get_executor()
    except (OSError, ValueError) as error:
        raise ValueError(f"{wanted}: {error}") from error


class Pool(ProcessPoolExecutor):
    """Worker processes of this one; `started` is set once one of them is ready for rows."""

    def __init__(self, workers: int):
        spawn = get_context("spawn")
        self.started = spawn.Event()
        super().__init__(workers, spawn, _start_worker, (self.started,))


@cache
def _pool(workers: int) -> Pool:
    """The workers of this process. They live on between calls, because each spends seconds on imports, and so
    that all steps of a run see the source as it was when the run began."""
    return Pool(workers)


def _start_worker(started) -> None:
    # An interrupt is the parent's to handle: it calls off what waits, and the step under way is kept.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    started.set()


def _end_with_parent() -> None:
    # A killed parent cannot stop its workers; without this they would compute on for nobody.
    parent_process().join()
    os._exit(1)


def workers() -> int:
    """How many rows this machine computes at once: PALIMPSEST_WORKERS, or its cores."""
    given = os.environ.get("PALIMPSEST_WORKERS", str(os.cpu_count() or 1))
    if not given.isdecimal() or int(given) < 1:
        raise ValueError(f"PALIMPSEST_WORKERS: got {given!r}, want a positive integer")
    return int(given)


def _why_broken(name: str, pool: Pool) -> str:
    if not pool.started.is_set():
        return (
            f"no worker process for {name} could start; its own message stands above. Every worker "
            "first imports the script that was started, so that must be a file, and what it does must stand under "
            '`if __name__ == "__main__":`'
        )
    return (
        f"a worker process that computed {name} died: it was killed, or memory ran out. "
        "What was finished is kept; run again, with a smaller PALIMPSEST_WORKERS if memory is short"
    )
