"""This machine computes what the accepted values were computed with, whatever its caller's environment asks."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from palimpsest import arithmetic
from palimpsest.runs import digest

x86 = pytest.mark.skipif(
    platform.machine().lower() not in arithmetic.X86,
    reason=f"the digests are those of x86-64; {platform.machine()} rounds otherwise",
)
# Every variable of `PINS` is asked for otherwise by one of them, and left unset by the other.
ENVIRONMENTS = (
    {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "ALL", "MKL_CBWR": "AVX2", "OPENBLAS_CORETYPE": "Zen"},
    {"PALIMPSEST_ARITHMETIC": "native", "NPY_DISABLE_CPU_FEATURES": "", "OMP_NUM_THREADS": "2"},
)


@pytest.mark.slow
@x86
@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda environment: ",".join(environment.values()))
def test_the_digests_are_the_committed_ones(monkeypatch, environment):
    for name in arithmetic.PINS:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found, committed = digest.fresh(), digest.committed()
    if found["versions"] != committed["versions"]:
        pytest.skip(f"the digests are those of {committed['versions']}; here are {found['versions']}")
    differing = [piece for piece in digest.PIECES if found["digests"][piece] != committed["digests"][piece]]
    assert not differing, f"chapters may print other values on {found['processor']}"


@x86
def test_other_routines_give_other_digests():
    code = "from palimpsest.runs import digest as d; print(d.short(d.torch_sums()))"
    other = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    said = subprocess.run([sys.executable, "-c", code], env=other, capture_output=True, text=True, check=True).stdout
    assert said.strip() != digest.committed()["digests"]["sums of torch"]


def test_an_arithmetic_that_is_not_pinned_is_refused(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    with pytest.raises(RuntimeError, match="MKL_CBWR is 'AVX2'"):
        digest.say()


def test_a_process_that_fails_is_not_taken_for_another_digest(monkeypatch, tmp_path):
    (tmp_path / "palimpsest.py").write_text("raise OSError('no room')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="could not be computed: OSError: no room"):
        digest.fresh()


def test_what_is_committed_is_whole():
    committed = digest.committed()
    assert list(committed["digests"]) == list(digest.PIECES)
    assert set(committed["versions"]) == set(digest.PACKAGES)
    assert committed["processor"]


def test_a_digest_tells_values_shapes_and_types_apart():
    arrays = [np.zeros(4), np.zeros((2, 2)), np.zeros(4, np.float32), np.array([0, 0, 0, -0.0])]
    assert len({digest.short([array]) for array in arrays}) == 4
    assert digest.short([np.zeros((2, 3)).T]) == digest.short([np.zeros((3, 2))])
