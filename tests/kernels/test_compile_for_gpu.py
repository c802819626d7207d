"""Every Triton kernel compiles for a real target, although no GPU is here to run it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

KERNELS = {
    "_row_statistics",
    "_pairs",
    "_weighted_log_ratios",
    "_through_softmax",
    "_entropy",
    "_entropy_gradient",
    "_quantize",
    "_quantize_gradient",
    "_vocabulary_statistics",
    "_coefficients",
    "_product",
    "_candidates",
    "_merge",
    "_inner_products",
    "_sum_chunks",
    "_combine",
    "_masked_adamw",
    "_pack_words",
    "_attend",
    "_join_parts",
    "_move_rows",
}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="not run: triton is not installed")
def test_kernels_compile_for_compute_capability_9():
    script = Path(__file__).with_name("compile_for_gpu.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert set(result.stdout.split()) == KERNELS
