"""The run cache and its keys."""

import json
import multiprocessing
import time
from pathlib import Path

import pytest
import reading
import torch
from rows import PATIENCE, double, triple

from palimpsest import runs
from palimpsest.runs import cache as store
from palimpsest.runs import machine, paths
from palimpsest.runs.sources import Closure


def test_the_key_follows_configuration_function_and_environment(monkeypatch):
    key = runs.key(double, {"x": 1, "y": 2})
    assert runs.key(double, {"y": 2, "x": 1}) == key
    assert len(key) == 64
    assert runs.key(double, {"x": 1, "y": 3}) != key
    assert runs.key(triple, {"x": 1, "y": 2}) != key
    for part, value in machine.numerical_environment().items():
        changed = {**machine.numerical_environment(), part: f"{value}, another"}
        with monkeypatch.context() as patch:
            patch.setattr(store, "numerical_environment", lambda changed=changed: changed)
            assert runs.key(double, {"x": 1, "y": 2}) != key
    with monkeypatch.context() as patch:
        patch.setattr(store, "closure", lambda function: Closure("another", frozenset(), frozenset()))
        assert runs.key(double, {"x": 1, "y": 2}) != key


class Two:
    """Functions with one closure, for a class counts whole."""

    @staticmethod
    def first() -> int:
        return 1

    @staticmethod
    def second() -> int:
        return 2


def test_two_functions_of_one_class_have_two_keys():
    assert runs.key(Two.first, {}) != runs.key(Two.second, {})


def test_the_key_follows_shipped_data_and_not_recorded_results(tmp_path, monkeypatch, forget):
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
    runs.key(slow_rows, {"folder": folder})  # so that both ask at once
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
    ("function", "path", "counts"),
    [
        (reading.reader, "fashion_mnist/test.png", True),
        (reading.constant, "fashion_mnist/test.png", True),  # whatever of its loader is in reach
        (reading.stranger, "fashion_mnist/test.png", False),
        (reading.reader, "authors/authors.jsonl", False),  # another loader's
        (reading.literal, "authors/authors.jsonl", True),  # without its loader, by its name
        (reading.stranger, "attic/note.txt", True),  # of no loader: nobody knows who reads it
        (reading.stranger, "claims/oeu.yaml", False),  # an output
    ],
)
def test_a_row_depends_on_the_shipped_files_that_it_can_read(tmp_path, monkeypatch, forget, function, path, counts):
    monkeypatch.setattr(paths, "DATA", tmp_path)

    def key(sha: str) -> str:
        (tmp_path / "MANIFEST").write_text(f"- {{path: {path}, sha256: {sha}}}\n")
        store._shipped.cache_clear()
        return runs.key(function, {})

    assert (key("0a") != key("0b")) == counts


def drawn(folder: str) -> dict:
    with open(Path(folder, "calls"), "a") as file:
        file.write("called\n")
    wide = torch.arange(12, dtype=torch.float64).view(3, 4)
    return {"turned": wide.T, "half": wide[:, ::2].half(), "steps": torch.tensor(7)}


def test_tensors_are_computed_once_and_come_back_as_they_were(tmp_path):
    cold, warm = (runs.artifact(drawn, {"folder": str(tmp_path)}) for _ in range(2))
    assert Path(tmp_path, "calls").read_text() == "called\n"
    for name, value in drawn(str(tmp_path)).items():
        for found in (cold[name], warm[name]):
            assert found.dtype == value.dtype
            assert torch.equal(found, value)


def test_every_shipped_folder_has_one_reader_or_is_known_to_have_none():
    folders = {path.partition("/")[0] for path, _ in store._shipped()}
    assert folders | {"studies"} >= store.UNREAD  # none is recorded yet
    assert {folder: len(store.readers().get(folder, ())) for folder in folders} == {
        folder: int(folder not in store.UNREAD) for folder in folders
    }
