"""The drills at small size, and that each finds what it is for."""

import json
import math
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from palimpsest import runs
from palimpsest.drills import changes, inputs, kills, subjects
from palimpsest.drills.cases import CASES, Case

SEED, EACH = 1, 6


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.filterwarnings("ignore")
def test_no_input_gives_a_wrong_value_or_a_foreign_error(name, capsys):
    counts = inputs.block(name, SEED, 0, EACH)
    assert (counts["silent"], counts["foreign"]) == (0, 0), capsys.readouterr().err
    assert counts["right"] + counts["caught"] == counts["tried"] == EACH


def root(x):
    """A function with three faults: negative numbers give 0, an infinity 1, and what is no tensor a TypeError."""
    if (x < 0).any():
        return torch.zeros_like(x)
    if x.isinf().any():
        return torch.ones_like(x)
    if not x.is_floating_point():
        raise ValueError("x: got integers")
    return x.double().sqrt()


def test_each_kind_of_fault_is_found():
    case = Case(root, lambda rng: {"x": torch.tensor([4.0, 9.0])}, lambda x: np.sqrt(x), lambda *_, **__: 1e-9)
    found = Counter(inputs.judged(case, np.random.default_rng(seed))[0] for seed in range(300))
    assert min(found[verdict] for verdict in ("right", "silent", "foreign")) > 3

    def about(x):
        case = Case(root, lambda rng: {"x": x}, lambda x: np.sqrt(x), lambda *_, **__: 1e-9)
        good = next(seed for seed in range(99) if np.random.default_rng(seed).random() >= inputs.SPOILT)
        return inputs.judged(case, np.random.default_rng(good))

    assert about(torch.tensor([4.0]))[0] == "right"
    assert about(torch.tensor([-4.0]))[0] == "silent"
    assert about(torch.tensor([math.inf]))[0] == "silent"
    assert about(4.0)[0] == "foreign"
    assert about(torch.tensor([4]))[0] == "foreign"  # what was not spoilt is refused


def write_slowly(folder: Path) -> None:
    """Four files, each whole or not there; the last tells whether all are."""
    for number in range(4):
        (folder / f"{number}.part").write_text("a" * 10)
        os.replace(folder / f"{number}.part", folder / str(number))
        torch.zeros(400, 400) @ torch.zeros(400, 400)


def carelessly(folder: Path) -> None:
    """One file that is written in pieces, and never mended."""
    if not (folder / "0").exists():
        for _ in range(3000):  # long beside what it takes to begin
            with (folder / "0").open("a") as file:
                file.write("a")


def names(folder: Path) -> dict[str, int]:
    return {file.name: len(file.read_text()) for file in folder.iterdir() if file.suffix != ".part"}


def as_long(folder: Path, result: dict[str, int]) -> None:
    for name, length in names(folder).items():
        if length != result[name]:
            raise ValueError(f"{name}: {length} letters")


@pytest.mark.parametrize(("work", "lost"), [(write_slowly, False), (carelessly, True)])
def test_what_is_half_written_is_found(work, lost, monkeypatch):
    monkeypatch.setattr(kills, "get_context", lambda _: InProcess)
    monkeypatch.setitem(kills.SUBJECTS, "a", subjects.Subject(Path.mkdir, work, names, as_long))
    counts = kills.block("a", SEED, 0, 8)
    assert counts["tried"] == counts["right"] + counts["lost"] == 8
    assert bool(counts["lost"]) == lost


def counting(folder: Path) -> None:
    """What it leaves tells how often it was begun."""
    with (folder / "begun").open("a") as file:
        file.write("a")
    for _ in range(40):
        torch.zeros(400, 400) @ torch.zeros(400, 400)


def test_another_result_after_a_kill_is_found(monkeypatch):
    monkeypatch.setattr(kills, "get_context", lambda _: InProcess)
    monkeypatch.setitem(kills.SUBJECTS, "a", subjects.Subject(Path.mkdir, counting, names, lambda *_: None))
    assert kills.block("a", SEED, 0, 4) == {"tried": 4, "right": 0, "lost": 4}


class InProcess:
    """Processes that are split off from this one, which costs no imports."""

    def set_forkserver_preload(modules):
        pass

    class Process:
        def __init__(self, target, args):
            self.target, self.args, self.exitcode = target, args, None

        def start(self):
            self.pid = os.fork()
            if not self.pid:
                self.target(*self.args)
                os._exit(0)

        def join(self, timeout=None):
            import time

            end = math.inf if timeout is None else time.monotonic() + timeout
            while self.exitcode is None and time.monotonic() < end:
                found, status = os.waitpid(self.pid, os.WNOHANG)
                self.exitcode = os.waitstatus_to_exitcode(status) if found else None
                time.sleep(1e-4)

        def kill(self):
            os.kill(self.pid, 9)


def test_a_study_gives_one_result_and_strange_predictions_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.paths, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(runs.paths, "DATA", runs.paths.DATA)
    monkeypatch.setattr(runs, "spread", runs.spread)
    monkeypatch.setenv("PALIMPSEST_CACHE", "")
    subject, found = subjects.SUBJECTS["study"], []
    for folder in (tmp_path / "a", tmp_path / "b"):
        subject.prepare(folder)
        subject.work(folder)
        found.append(subject.result(folder))
        subject.whole(folder, found[0])
    assert found[0] == found[1]
    file = next(folder.rglob("*.safetensors"))
    file.write_bytes(b"?" + file.read_bytes()[1:])
    with pytest.raises(ValueError, match="altered"):
        subject.whole(folder, found[0])


def test_a_text_that_is_no_beginning_of_the_right_one_is_seen(tmp_path):
    subject = subjects.SUBJECTS["decode"]
    subject.whole(tmp_path, "one two\n")  # nothing was said yet
    for said, right in (("one t", True), ("one two\n300 tokens, 0.1 s", True), ("one x", False)):
        (tmp_path / "said").write_text(said)
        if right:
            subject.whole(tmp_path, "one two\n")
        else:
            with pytest.raises(ValueError, match="no beginning of the text"):
                subject.whole(tmp_path, "one two\n")
    assert subject.result(tmp_path) == "one x"


def test_a_changed_byte_of_a_shipped_file_is_caught(monkeypatch, tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("MANIFEST", "capital"):
        source = runs.paths.DATA / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, tmp_path / "data" / name)
    monkeypatch.setattr(runs.paths, "DATA", tmp_path / "data")
    listed = {name: entry for name, entry in changes.manifest.read().items() if name.startswith("capital/")}
    monkeypatch.setattr(
        changes.manifest, "read", lambda root=None, read=changes.manifest.read: read(root) if root else listed
    )
    counts = changes.block("shipped files", SEED)
    assert counts["tried"] == counts["caught"] == len(listed) * (changes.HEADER + changes.BESIDES)


def test_what_a_change_does_is_told_apart(tmp_path):
    file = tmp_path / "a.json"
    cases = {'{"a":  1}': "right", '{"a": 2}': "silent", '{"a": 1': "foreign", "": "caught"}

    def read():
        if not file.read_text():
            raise ValueError(f"{file}: empty")
        return json.loads(file.read_text())

    for text, want in cases.items():
        file.write_text(text)
        assert changes.verdict(read, {"a": 1}, file) == want
    assert changes.same({"a": [torch.ones(2)]}, {"a": [torch.ones(2)]})
    assert not changes.same(torch.ones(2), torch.ones(2).double())


def test_positions_hold_the_header_and_the_end():
    rng = np.random.default_rng(0)
    assert changes.positions(9, rng) == list(range(9))
    found = changes.positions(1000, rng)
    assert found[:16] == list(range(16))
    assert found[-1] == 999
    assert len(set(found)) == len(found) == 32
