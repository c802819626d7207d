"""The run cache, its keys, atomic writes, progress bars and the worker pool."""

import errno
import importlib
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

import palimpsest
from palimpsest import runs
from palimpsest.runs import cache as store
from palimpsest.runs import files, paths, pool

environments = importlib.import_module("palimpsest.runs.environment")  # `runs` exports the function of that name


PATIENCE = 60  # seconds that a broken wait lasts; a working one ends as soon as it can


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """An empty cache, for this process and for the workers, which live as long as it does."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "CACHE", folder)
        patch.setenv("PALIMPSEST_CACHE", str(folder))
        patch.delenv("PALIMPSEST_PROGRESS", raising=False)
        pool._pool.cache_clear()
        yield folder
        pool._pool.cache_clear()


# Atomic writes.


def test_a_written_file_is_complete_and_everyone_can_read_it(tmp_path):
    path = tmp_path / "new" / "rows.json"
    runs.write_atomic(path, lambda temporary: Path(temporary).write_text("rows"))
    assert path.read_text() == "rows"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "rows.json"
    path.write_text("old")

    def fail(temporary):
        Path(temporary).write_text("half")
        raise error

    with pytest.raises(BaseException) as caught:  # noqa: PT011 — its kind is compared below
        runs.write_atomic(path, fail)
    assert caught.type is (error if isinstance(error, type) else OSError)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["mkstemp", "write", "fsync", "replace"])
def test_a_full_disk_is_reported_with_the_path(tmp_path, monkeypatch, place):
    path = tmp_path / "rows.json"

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a temporary name")

    owner = {"mkstemp": files.tempfile, "fsync": os, "replace": os}.get(place)
    if owner:
        monkeypatch.setattr(owner, place, full)
    write = full if place == "write" else lambda temporary: Path(temporary).write_text("rows")
    with pytest.raises(OSError, match=f"could not write {path}: No space left on device") as caught:
        runs.write_atomic(path, write)
    assert caught.value.errno == errno.ENOSPC
    assert "a temporary name" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# Progress.


def test_progress_goes_to_the_file_named_and_not_to_the_terminal(tmp_path, monkeypatch, capsys):
    log = tmp_path / "progress.log"
    log.write_text("before\n")
    monkeypatch.setenv("PALIMPSEST_PROGRESS", str(log))
    with runs.progress_bar(total=2, desc="counting sheep") as bar:
        bar.update()
    assert log.read_text().startswith("before\n")
    assert "counting sheep:  50%" in log.read_text()
    assert capsys.readouterr() == ("", "")


def test_progress_goes_to_standard_error_otherwise(capsys):
    with runs.progress_bar(total=2, desc="counting sheep", initial=1):
        pass
    out, err = capsys.readouterr()
    assert out == ""
    assert "counting sheep:  50%" in err


def test_a_bar_without_a_label_is_silent(tmp_path, monkeypatch, capsys):
    log = tmp_path / "progress.log"
    for target in ("", str(log)):
        monkeypatch.setenv("PALIMPSEST_PROGRESS", target)
        with runs.progress_bar(total=2, desc=None) as bar:
            bar.update()
    assert capsys.readouterr() == ("", "")
    assert not log.exists()


# Keys.


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A package palimpsest.room with `entry`, what it imports in every way there is, and what it does not."""
    folder = tmp_path / "room"
    folder.mkdir()
    sources = {
        "__init__": "",
        "entry": """
import os
from . import near
from palimpsest.room.deep import thing
from .inner.leaf import x
from .outer import y
def answer():
    import palimpsest.room.lazy
""",
        "near": "",
        "deep": "from .far import thing",
        "far": "from palimpsest.runs.paths import ROOT\nthing = 1",
        "lazy": "",
        "unused": "",
    }
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)
    for package, module, source in (
        ("inner", "__init__", ""),
        ("inner", "leaf", "x = 1"),
        ("outer", "__init__", "y = 1"),
    ):
        (folder / package).mkdir(exist_ok=True)
        (folder / package / f"{module}.py").write_text(source)
    monkeypatch.setattr(palimpsest, "__path__", [*palimpsest.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    forget()
    yield folder
    forget()
    for name in [name for name in sys.modules if name.startswith("palimpsest.room")]:
        del sys.modules[name]
    if hasattr(palimpsest, "room"):
        del palimpsest.room


def forget() -> None:
    for function in (store.module_closure, store.source_digest, store.shipped_digest):
        function.cache_clear()


# Not the packages around a module that is taken out of them: adding a kernel changes kernels/__init__.py, and
# must not throw away what the other kernels computed.
RUN = ("entry", "near", "deep", "far", "lazy", "inner.leaf", "outer")


def test_the_closure_is_every_project_module_that_is_used(room):
    expected = {f"palimpsest.room.{name}" for name in RUN} | {"palimpsest.runs.paths"}
    assert set(store.module_closure("palimpsest.room.entry")) == expected


@pytest.mark.parametrize("name", [*RUN, "unused", "inner"])
def test_the_digest_follows_the_source_of_each_of_them(room, name):
    before = store.source_digest("palimpsest.room.entry")
    forget()
    assert store.source_digest("palimpsest.room.entry") == before
    path = room / f"{name.replace('.', '/')}"
    with open(path / "__init__.py" if path.is_dir() else f"{path}.py", "a") as file:
        file.write("\n# another comment")
    forget()
    assert (store.source_digest("palimpsest.room.entry") != before) == (name in RUN)


def test_the_experiment_depends_on_the_kernel_and_not_on_the_command_line():
    closure = store.module_closure("palimpsest.chapters.jscds.experiment")
    needed = {"kernels.jensen_shannon.chunked", "nets.lockstep", "selection.rules", "data.labels", "training", "runs"}
    assert {f"palimpsest.{name}" for name in needed} <= set(closure)
    assert not {"palimpsest.commands.main", "palimpsest.ledger", "palimpsest.kernels.softmax_entropy"} & set(closure)


def double(x: int) -> int:
    return 2 * x


def triple(x: int) -> int:
    return 3 * x


def test_the_key_follows_configuration_function_and_environment(monkeypatch):
    key = runs.key(double, {"x": 1, "y": 2})
    assert runs.key(double, {"y": 2, "x": 1}) == key
    assert len(key) == 64
    assert runs.key(double, {"x": 1, "y": 3}) != key
    assert runs.key(triple, {"x": 1, "y": 2}) != key
    for part, value in environments.numerical_environment().items():
        changed = {**environments.numerical_environment(), part: f"{value}, another"}
        with monkeypatch.context() as patch:
            patch.setattr(store, "numerical_environment", lambda changed=changed: changed)
            assert runs.key(double, {"x": 1, "y": 2}) != key
    with monkeypatch.context() as patch:
        patch.setattr(store, "source_digest", lambda module: "another")
        assert runs.key(double, {"x": 1, "y": 2}) != key


def test_the_key_follows_shipped_data_and_not_recorded_results(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "DATA", tmp_path)

    def key(**digests) -> str:
        files = {"set/train.png": "1", "claims/a.yaml": "1", "results/a.json": "1", "bench/a.csv": "1", **digests}
        entries = [{"path": path, "sha256": sha256} for path, sha256 in files.items()]
        (tmp_path / "MANIFEST").write_text(json.dumps(entries))  # JSON is YAML
        forget()
        return runs.key(double, {"x": 1})

    first = key()
    for output in ("claims/a.yaml", "results/a.json", "bench/a.csv"):
        assert key(**{output: "2"}) == first
    assert key(**{"set/train.png": "2"}) != first
    assert key(**{"set/test.png": "1"}) != first
    forget()


# The cache.


def rows(folder: str) -> dict:
    with open(Path(folder, "calls"), "a") as file:
        file.write("called\n")
    return {1: (2, 3.5), "none": None, "small": 1e-300}


def test_a_cold_and_a_warm_call_return_the_same_types_and_compute_once(tmp_path):
    cold, warm = (runs.cached(rows, {"folder": str(tmp_path)}) for _ in range(2))
    assert cold == warm == {"1": [2, 3.5], "none": None, "small": 1e-300}
    assert Path(tmp_path, "calls").read_text() == "called\n"


def fail_once(folder: str) -> str:
    marker = Path(folder, "failed")
    if not marker.exists():
        marker.touch()
        raise ArithmeticError("not yet")
    return "done"


def test_a_failure_is_not_cached(tmp_path, cache):
    with pytest.raises(ArithmeticError, match="not yet"):
        runs.cached(fail_once, {"folder": str(tmp_path)})
    assert list(cache.rglob("fail_once/*.json")) == []
    assert runs.cached(fail_once, {"folder": str(tmp_path)}) == "done"


def slow_rows(folder: str) -> int:
    with open(Path(folder, "calls"), "a") as file:
        file.write("called\n")
    time.sleep(0.5)  # long enough for the other process to ask
    return 7


def ask(barrier, queue, folder: str) -> None:
    store.source_digest(__name__)  # so that both ask at once
    store.shipped_digest(__name__)
    barrier.wait(PATIENCE)
    queue.put(runs.cached(slow_rows, {"folder": folder}))


def test_two_processes_compute_a_row_once(tmp_path):
    fork = multiprocessing.get_context("fork")
    barrier, queue = fork.Barrier(2), fork.Queue()
    processes = [fork.Process(target=ask, args=(barrier, queue, str(tmp_path))) for _ in range(2)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=PATIENCE) for _ in processes] == [7, 7]
    for process in processes:
        process.join()
    assert Path(tmp_path, "calls").read_text() == "called\n"


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("fashion_mnist/test.png", True),  # its loader is imported
        ("figures/note.txt", False),  # of a module that is not
        ("attic/note.txt", True),  # of no module: nobody knows who reads it
        ("claims/oeu.yaml", False),  # an output
    ],
)
def test_a_row_depends_on_the_shipped_files_that_its_module_can_read(tmp_path, monkeypatch, path, counts):
    monkeypatch.setattr(paths, "DATA", tmp_path)

    def digest(sha: str) -> str:
        (tmp_path / "MANIFEST").write_text(f"- {{path: {path}, sha256: {sha}}}\n")
        store.shipped_digest.cache_clear()
        return store.shipped_digest("palimpsest.data.fashion_mnist")

    try:
        assert (digest("0a") != digest("0b")) == counts
    finally:
        store.shipped_digest.cache_clear()


# The pool. Starting a worker costs seconds, so these tests start few.


def worker(call: int) -> int:
    return os.getpid()


def task(name: str, folder: str, after: str | None = None, end: str | None = None) -> str:
    """A row; it waits until the row `after` is finished, and dies as `end` says."""
    deadline = time.monotonic() + PATIENCE
    while after and not Path(folder, after).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    if end == "error":
        raise ValueError("a bad row")
    if end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "never":
        with FileLock(Path(folder, "alive.lock")):
            Path(folder, name).touch()
            time.sleep(10 * PATIENCE)
    with open(Path(folder, "order"), "a") as file:
        file.write(name)
    Path(folder, name).touch()
    return f"row {name}"


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


@pytest.mark.slow
def test_two_launched_processes_share_the_work_and_return_what_one_does(tmp_path, cache):
    configs = [{"name": name, "folder": str(tmp_path)} for name in "abcde"]
    program = tmp_path / "program.py"
    program.write_text(
        "import json, os, pathlib\nfrom palimpsest import runs\nfrom test_runs import task\n"
        "if __name__ == '__main__':\n"
        f"    rows = runs.run_all(task, {configs!r}, show=None)\n"
        f"    pathlib.Path({str(tmp_path)!r}, 'rank' + os.environ['RANK']).write_text(json.dumps(rows))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    # The variables that `accelerate launch` and torchrun set.
    environment |= {"PALIMPSEST_WORKERS": "2", "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen([sys.executable, program], env=environment | {"RANK": str(rank)}) for rank in (0, 1)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    rows = [json.loads((tmp_path / f"rank{rank}").read_text()) for rank in (0, 1)]
    assert rows[0] == rows[1] == [f"row {name}" for name in "abcde"]
    assert sorted((tmp_path / "order").read_text()) == list("abcde")  # each was computed once


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(tmp_path):
    program = (
        "from palimpsest import runs; from test_runs import task; "
        f"runs.run_all(task, [{{'name': 'a', 'folder': {str(tmp_path)!r}, 'end': 'never'}}], show='rows')"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    parent = subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.DEVNULL)
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
    monkeypatch.setattr(store, "_pool", seen.append)
    for value in ("3", None):
        if value:
            monkeypatch.setenv("PALIMPSEST_WORKERS", value)
        else:
            monkeypatch.delenv("PALIMPSEST_WORKERS")
        assert runs.run_all(double, [], show="rows") == []
    assert seen == [3, os.cpu_count()]


# The environment.


def test_the_environment_names_what_results_depend_on(tmp_path, monkeypatch):
    record = runs.environment()
    assert environments.numerical_environment().items() <= record.items()
    assert {"torch", *environments.NUMERICAL, "cpu", "device"} == set(environments.numerical_environment())
    assert {"python", "system", "cores", "triton", "commit"} <= set(record)
    monkeypatch.setattr(paths, "ROOT", tmp_path)  # no repository
    assert runs.environment()["commit"] == "unknown"
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert runs.environment()["commit"] == "unknown"


def test_a_package_that_is_not_installed_is_absent():
    assert environments.installed("torch") != "absent"
    assert environments.installed("no-such-package-of-anyone") == "absent"
