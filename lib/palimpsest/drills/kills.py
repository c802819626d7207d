"""The drill of kills: a process that works in a folder is killed at a random moment, and the work begun again.

A kill counts as lost where it leaves a file under its name that is not whole, and where what the work ends with after
it is not, byte for byte, what it gives undisturbed. Files that are being written have names that begin with a dot;
such may stay behind.
"""

import sys
import tempfile
import time
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from palimpsest.drills.subjects import SUBJECTS

PRELOADED = ["palimpsest.chapters", "palimpsest.drills.preloaded"]
"""Imported before a process is split off, so that kills fall into the work and not into the imports."""
IN_A_ROW = 4
"""Kills of one piece of work before it may end."""


def block(name: str, seed: int, first: int, kills: int) -> dict[str, int]:
    """How `kills` kills of the subject `name` count; each is drawn from the seed and its number, from `first` on.

    The moment lies uniformly in the time that the work takes undisturbed, the shortest that was seen: the first time
    takes longer. A process that ended before its moment was not killed, and is not counted.
    """
    subject, counts = SUBJECTS[name], {"tried": 0, "right": 0, "lost": 0}
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    rng = np.random.default_rng([seed, first])

    def start(folder: Path):
        process = context.Process(target=subject.work, args=(folder,))
        process.start()
        return process

    with tempfile.TemporaryDirectory() as temporary:
        folders = (Path(temporary) / str(number) for number in count())
        undisturbed = next(folders)
        subject.prepare(undisturbed)
        warm = context.Process(target=sum, args=([],))
        warm.start()
        _ended(warm, name)  # what all are split off from imports before it
        began = time.perf_counter()
        _ended(start(undisturbed), name)
        seconds, want = time.perf_counter() - began, subject.result(undisturbed)
        while counts["tried"] < kills:
            folder = next(folders)
            subject.prepare(folder)
            made = faults = 0
            for _ in range(min(IN_A_ROW, kills - counts["tried"])):
                process, began = start(folder), time.perf_counter()
                process.join(rng.uniform(0, seconds))
                if process.exitcode is not None:
                    seconds = min(seconds, time.perf_counter() - began)
                    break
                process.kill()
                process.join()
                made += 1
                faults += _harmed(subject, folder, want, f"{name}, seed {seed}, after kill {counts['tried'] + made}")
            if made:
                _ended(start(folder), name)
                if subject.result(folder) != want:
                    print(f"{name}, seed {seed}: another result after {made} kills", file=sys.stderr)
                    faults = made
            counts["tried"] += made
            counts["lost"] += faults
            counts["right"] += made - faults
    return counts


def _harmed(subject, folder: Path, want: object, where: str) -> bool:
    """Whether something is half-written, or more is there than there should be."""
    try:
        subject.whole(folder, want)
    except Exception as error:  # whatever a reader of that file would meet
        print(f"{where}: {type(error).__name__}: {error}", file=sys.stderr)
        return True
    return False


def _ended(process, name: str) -> None:
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{name}: the work ended with status {process.exitcode}")
