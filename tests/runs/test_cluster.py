"""Rows on the workers of a dask scheduler: a scheduler and two workers here, reached at 127.0.0.1 alone."""

import os
import subprocess
import sys
import time

import pytest
from rows import PATIENCE, double, task, threads, training, worker

from palimpsest import runs
from palimpsest.runs import pool

distributed = pytest.importorskip("distributed")

PROCESS = [sys.executable, "-m", "dask"]


@pytest.fixture(scope="module")
def cluster(cache, tmp_path_factory):
    """`start()` adds a worker and returns its process; the scheduler's address is in the environment."""
    folder = tmp_path_factory.mktemp("cluster")
    file, running = folder / "scheduler.json", []

    def start(*command: str) -> subprocess.Popen:
        options = ["--no-dashboard", "--host", "127.0.0.1", "--scheduler-file", str(file)]
        with open(folder / "log", "a") as log:
            running.append(subprocess.Popen([*PROCESS, *command, *options], stdout=log, stderr=log, cwd=folder))
        return running[-1]

    def start_worker(threads: int = 1) -> subprocess.Popen:
        # Without a nanny a killed worker stays dead.
        return start("worker", "--no-nanny", "--nthreads", str(threads), "--local-directory", str(folder))

    try:
        start("scheduler", "--port", "0")
        wait_for(file.exists)
        with (
            distributed.Client(scheduler_file=str(file), timeout=PATIENCE, set_as_default=False) as client,
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setenv("PALIMPSEST_SCHEDULER", client.scheduler.address)
            patch.setenv("PALIMPSEST_WORKERS", "0")  # whoever starts processes of their own fails
            yield start_worker, client
    finally:
        pool._cluster.cache_clear()
        for process in running:
            process.kill()
            process.wait()


def wait_for(what) -> None:
    deadline = time.monotonic() + 2 * PATIENCE
    while not what() and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.fixture
def two_workers(cluster):
    start_worker, client = cluster
    for _ in range(2 - len(client.scheduler_info(n_workers=-1)["workers"])):
        start_worker()
    client.wait_for_workers(2, timeout=4 * PATIENCE)
    return client


@pytest.mark.slow
def test_a_cluster_gives_the_rows_that_this_machine_gives(two_workers, cache, monkeypatch):
    configs = [{"seed": seed} for seed in range(4)]
    there = runs.run_all(training, configs, show=None)
    assert len(list(cache.glob("training/*.json"))) == 4
    assert runs.run_all(training, configs, show=None) == there
    for file in cache.glob("training/*.json"):
        file.unlink()
    monkeypatch.delenv("PALIMPSEST_SCHEDULER")
    monkeypatch.setenv("PALIMPSEST_WORKERS", "1")
    assert runs.run_all(training, configs, show=None) == there


@pytest.mark.slow
def test_both_workers_compute_each_with_one_thread(two_workers):
    pids = runs.run_all(worker, [{"call": call} for call in range(20)], show=None)
    assert os.getpid() not in pids
    assert runs.run_all(threads, [{"call": call} for call in range(6)], show=None) == [[1, 1]] * 6


@pytest.mark.slow
def test_a_failing_row_names_itself(two_workers, tmp_path):
    bad = {"name": "b", "folder": str(tmp_path), "end": "error"}
    with pytest.raises(RuntimeError, match=r"^task\(\{'name': 'b', .*\) failed: a bad row$") as caught:
        runs.run_all(task, [{"name": "a", "folder": str(tmp_path)}, bad], show=None)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_loses_nothing(two_workers, tmp_path):
    configs = [{"name": name, "folder": str(tmp_path)} for name in "abcdef"]
    configs[1]["end"] = "once"  # kills the worker that computes it
    configs[3]["after"] = "b"  # so that something is under way when it dies, or waits to be
    assert runs.run_all(task, configs, show=None) == [f"row {name}" for name in "abcdef"]
    assert (tmp_path / "b died").exists()
    assert len(two_workers.scheduler_info(n_workers=-1)["workers"]) == 1
    assert sorted((tmp_path / "order").read_text()) == list("abcdef")  # a finished row was not computed again


def test_a_scheduler_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("PALIMPSEST_SCHEDULER", "tcp://127.0.0.1:9")
    monkeypatch.setattr(pool, "TIMEOUT", 1)
    with pytest.raises(
        ValueError, match=r"PALIMPSEST_SCHEDULER: got 'tcp://127.0.0.1:9', want the address of a running"
    ):
        runs.run_all(double, [{"x": 1}], show=None)


def test_what_a_cluster_needs_is_named(monkeypatch):
    monkeypatch.setenv("PALIMPSEST_SCHEDULER", "tcp://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match="the package distributed"):
        runs.run_all(double, [{"x": 1}], show=None)
