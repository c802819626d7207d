"""The arithmetic is pinned before a library works, is told apart in every record, and is left alone where asked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from numpy._core._multiarray_umath import __cpu_features__ as features

from palimpsest import arithmetic
from palimpsest.runs import machine


def said(code: str, **variables: str) -> str:
    """What a fresh process prints whose environment holds `variables` and nothing that the chapters set."""
    kept = os.environ.keys() - arithmetic.PINS.keys() - {"TRITON_INTERPRET"}
    environment = {name: os.environ[name] for name in kept}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | variables, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


TESTS = str(Path(__file__).parents[1])
LABEL = "from palimpsest import arithmetic; import torch, numpy; print(arithmetic.label())"


AT_WORK = f"""
import palimpsest.chapters
{LABEL}
from threadpoolctl import threadpool_info
torch.ones(64, 64) @ torch.ones(64, 64)
torch.nn.functional.conv2d(torch.ones(16, 8, 32, 32), torch.ones(8, 8, 3, 3))
print("numpy's:", *[found.get("architecture") for found in threadpool_info() if found["internal_api"] == "openblas"])
"""


@pytest.mark.skipif(
    arithmetic.label() != "pinned" or not torch.backends.mkl.is_available(), reason="no routines to choose from"
)
def test_every_library_says_that_it_works_as_pinned_whatever_the_caller_asks():
    asked = {"ONEDNN_MAX_CPU_ISA": "SSE41", "OPENBLAS_CORETYPE": "Nehalem", "MKL_CBWR": "AVX2"}
    told = said(AT_WORK, MKL_VERBOSE="1", ONEDNN_VERBOSE="1", ATEN_CPU_CAPABILITY="default", **asked)
    assert "pinned" in told.splitlines()
    for line in ("cpu,isa:Intel AVX2\n", "CNR:COMPATIBLE", "numpy's: Haswell"):
        assert line in told


def test_a_plain_import_changes_nothing():
    code = "import os; before = dict(os.environ); import palimpsest; from palimpsest.commands import main"
    assert said(f"{code}; print(dict(os.environ) == before)") == "True"


KEY = """
from palimpsest import runs
from palimpsest.chapters.jscds import experiment
print(runs.key(experiment.train, {}))
from palimpsest import arithmetic
print(arithmetic.label())
"""


def test_pages_commands_workers_and_tests_ask_the_cache_with_one_key():
    begun = [
        "import palimpsest.chapters\nfrom palimpsest.chapters.shared import page\npage.begin(0, {0: 1})",  # a page
        "from palimpsest.commands import main",
        "from palimpsest.runs import pool",  # a worker, before it is sent a row
        "import conftest",
    ]
    asked = {"PYTHONPATH": os.pathsep.join([*sys.path, TESTS]), "ATEN_CPU_CAPABILITY": "avx512"}
    told = [said(f"{code}\n{KEY}", **asked).splitlines() for code in begun]
    assert told == [told[0]] * len(begun)
    key, label = told[0]
    assert len(key) == 64
    assert label == arithmetic.label()


def test_chapters_run_triton_in_its_interpreter_where_there_is_no_device():
    code = "import importlib, os, torch; torch.cuda.is_available = lambda: True; import palimpsest.chapters"
    code += "; print(os.environ.get('TRITON_INTERPRET'))"
    code += "; torch.cuda.is_available = lambda: False; importlib.reload(palimpsest.chapters)"
    assert said(f"{code}; print(os.environ.get('TRITON_INTERPRET'))").split() == ["None", "1"]


def test_native_is_a_wish():
    told = said(f"import os, palimpsest.chapters; print(list(os.environ)); {LABEL}", PALIMPSEST_ARITHMETIC="native")
    variables, label = told.splitlines()
    assert label == "native, as PALIMPSEST_ARITHMETIC asks"
    assert "MKL_CBWR" not in variables


def test_an_unknown_wish_is_refused(monkeypatch):
    monkeypatch.setenv("PALIMPSEST_ARITHMETIC", "fast")
    with pytest.raises(ValueError, match="PALIMPSEST_ARITHMETIC: got 'fast', want one of"):
        arithmetic.variables()


def test_torch_at_work_under_other_settings_is_seen():
    code = (
        "import torch; torch.ones(3).exp(); import palimpsest.chapters\n"
        "from palimpsest import arithmetic\n"
        "try: arithmetic.require()\n"
        "except RuntimeError as error: print(error)"
    )
    assert "torch works with DEFAULT" in said(code, ATEN_CPU_CAPABILITY="default")


def test_numpy_at_work_under_other_settings_is_seen(monkeypatch):
    used = next(name for name, present in features.items() if present)
    monkeypatch.setitem(arithmetic.PINS, "NPY_DISABLE_CPU_FEATURES", used)
    monkeypatch.setenv("NPY_DISABLE_CPU_FEATURES", used)
    with pytest.raises(RuntimeError, match="numpy was imported before the arithmetic was pinned"):
        arithmetic.require()


def test_a_machine_without_the_routines_says_so_and_may_compute(monkeypatch):
    monkeypatch.setattr(arithmetic.platform, "machine", lambda: "aarch64")
    assert arithmetic.label() == "native: aarch64 has none of the routines"
    arithmetic.require()


def test_it_is_part_of_every_record_and_key(monkeypatch):
    assert machine.numerical_environment()["arithmetic"] == "pinned"
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    assert "MKL_CBWR is 'AVX2'" in machine.numerical_environment()["arithmetic"]
