"""Settings that must hold before any test module is imported, and which combinations of parameters are run."""

import gc
import os
import sys
from functools import cache
from itertools import combinations

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tensors of tests are small: threads would only wait for each other

import palimpsest.chapters  # noqa: F401 (before a test imports numpy or torch: it pins the arithmetic)
from palimpsest.runs import machine
from palimpsest.training import checkpoints

sys.modules.setdefault("rfc3987_syntax", None)  # the grammar of URIs: seconds to compile, and nbformat asks nothing


def pytest_configure(config):
    config.addinivalue_line("markers", "pairwise: every pair of values of two parameters, not every combination")


def all_pairs(items):
    """Few cases of one test that hold every pair of values of two of its parameters, those without Triton first:
    its interpreter is slow. The same ones each time."""
    values = {item: [(name, id(value)) for name, value in item.callspec.params.items()] for item in items}
    pairs = {item: set(combinations(values[item], 2)) for item in items}
    missing, chosen = set().union(*pairs.values()), []
    cheapest_first = sorted(items, key=lambda item: "triton" in item.callspec.id)
    while missing:
        chosen.append(max(cheapest_first, key=lambda item: len(pairs[item] & missing)))
        missing -= pairs[chosen[-1]]
    return chosen


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Thins out the tests marked `pairwise`; those for a GPU, where time is no matter, keep every combination."""
    tests = {}
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else ()
        if len(parameters) > 2 and item.get_closest_marker("pairwise") and not item.get_closest_marker("gpu"):
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept = {item for cases in tests.values() for item in all_pairs(cases)}
    thinned = {item for cases in tests.values() for item in cases} - kept
    items[:] = [item for item in items if item not in thinned]
    config.hook.pytest_deselected(items=list(thinned))


def pytest_collection_finish():
    """What was imported stays: statsmodels collects garbage at every correction for several tests, half a second
    each time where it looks through all that torch and transformers hold."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def versions():
    """Every key of the cache asks for six versions, each in a file of its own; no test installs another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "installed", cache(machine.installed))
        yield


class Stopped(Exception):
    """Ends a run as an interrupt would."""


@pytest.fixture
def stop_at(monkeypatch):
    """`stop_at(epoch, run)` calls `run`, which must keep a checkpoint, and ends it once that of `epoch` is kept."""
    save = checkpoints.save

    def stop_at(epoch, run):
        def save_and_stop(folder, identity, done, *state):
            save(folder, identity, done, *state)
            if done == epoch:
                raise Stopped

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "save", save_and_stop)
            with pytest.raises(Stopped):
                run()

    return stop_at
