"""The worker pool. Starting a worker costs seconds, so these tests start few."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from rows import PATIENCE, double, task, threads, worker

from palimpsest import runs
from palimpsest.runs import pool


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_come_in_the_order_of_the_configurations(tmp_path, monkeypatch, workers, capsys):
    monkeypatch.setenv("PALIMPSEST_WORKERS", str(workers))
    # With two workers the first row is made to finish after the second.
    configs = [{"name": name, "folder": str(tmp_path)} for name in "abc"]
    if workers == 2:
        configs[0]["after"] = "b"
    assert runs.run_all(task, configs, show="rows") == ["row a", "row b", "row c"]
    order = Path(tmp_path, "order").read_text()
    assert order == "abc" if workers == 1 else order.index("b") < order.index("a")
    assert "rows: 100%" in capsys.readouterr().err


def test_a_failing_configuration_names_itself_and_finished_ones_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_WORKERS", "1")
    good, bad = {"name": "a", "folder": str(tmp_path)}, {"name": "b", "folder": str(tmp_path), "end": "error"}
    with pytest.raises(RuntimeError, match=r"^task\(\{'name': 'b', .*\) failed: a bad row$") as caught:
        runs.run_all(task, [good, bad], show="rows")
    assert isinstance(caught.value.__cause__, ValueError)
    assert runs.cached(task, good) == "row a"
    assert Path(tmp_path, "order").read_text() == "a", "the finished row was computed again"


def test_workers_serve_further_calls(monkeypatch):
    monkeypatch.setenv("PALIMPSEST_WORKERS", "1")
    first, second = (runs.run_all(worker, [{"call": call}], show="rows") for call in (1, 2))
    assert first == second
    assert first != [os.getpid()]


def test_a_killed_worker_is_reported_as_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_WORKERS", "1")
    good, bad = {"name": "a", "folder": str(tmp_path)}, {"name": "b", "folder": str(tmp_path), "end": "killed"}
    with pytest.raises(RuntimeError, match=r"a worker process that computed task died: .*PALIMPSEST_WORKERS"):
        runs.run_all(task, [good, bad], show="rows")
    assert runs.cached(task, good) == "row a"
    assert Path(tmp_path, "order").read_text() == "a"


def test_a_worker_killed_between_calls_is_reported_too(monkeypatch):
    monkeypatch.setenv("PALIMPSEST_WORKERS", "1")
    # After a killed worker, as in the test before, the next call starts new ones.
    (pid,) = runs.run_all(worker, [{"call": 3}], show="rows")
    os.kill(pid, signal.SIGKILL)
    broken = pool._pool(1)
    deadline = time.monotonic() + PATIENCE
    while not broken._broken and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(RuntimeError, match="a worker process that computed worker died"):
        runs.run_all(worker, [{"call": 4}], show="rows")
    assert pool._pool(1) is not broken


def test_any_executor_will_do_and_computes_one_row_at_a_time_on_one_thread(monkeypatch):
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(3) as executor:
            monkeypatch.setattr(pool, "_executor", lambda: executor)
            assert runs.run_all(threads, [{"call": call} for call in range(3)], show="rows") == [[1, 1]] * 3
    finally:
        torch.set_num_threads(before)


def test_a_worker_with_another_source_refuses():
    with pytest.raises(RuntimeError, match="the worker runs another source than the process that asks"):
        pool.row(double, {"x": 1}, triton=False, source="0" * 64)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["script", "standard input"])
def test_a_worker_that_cannot_start_says_why(tmp_path, where):
    program = textwrap.dedent("""
        from palimpsest import runs
        from rows import double
        runs.run_all(double, [{"x": 1}], show=None)
    """)
    (tmp_path / "script.py").write_text(program)
    command = [sys.executable, tmp_path / "script.py" if where == "script" else "-"]
    done = subprocess.run(command, input=program, capture_output=True, text=True, timeout=5 * PATIENCE)
    assert done.returncode == 1
    assert "RuntimeError: no worker process for double could start" in done.stderr
    assert 'must stand under `if __name__ == "__main__":`' in done.stderr


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(tmp_path):
    program = (
        "from palimpsest import runs; from rows import task; "
        f"runs.run_all(task, [{{'name': 'a', 'folder': {str(tmp_path)!r}, 'end': 'never'}}], show='rows')"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while not Path(tmp_path, "a").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert parent.poll() is None
    parent.kill()
    parent.wait()
    # The worker held this lock as long as it lived.
    with FileLock(tmp_path / "alive.lock", timeout=20):
        pass


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", " "])
def test_a_bad_number_of_workers_is_refused_by_name(monkeypatch, value):
    monkeypatch.setenv("PALIMPSEST_WORKERS", value)
    with pytest.raises(ValueError, match=f"PALIMPSEST_WORKERS: got {value!r}, want a positive integer"):
        runs.run_all(double, [{"x": 1}], show="rows")


def test_the_number_of_workers(monkeypatch):
    seen = []
    monkeypatch.setattr(pool, "_pool", seen.append)
    for value in ("3", None):
        if value:
            monkeypatch.setenv("PALIMPSEST_WORKERS", value)
        else:
            monkeypatch.delenv("PALIMPSEST_WORKERS")
        assert runs.run_all(double, [], show="rows") == []
    assert seen == [3, os.cpu_count()]
